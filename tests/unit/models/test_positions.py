from __future__ import annotations

import numpy as np
import pytest
import torch

from kdmt.models.positions import LearnedPositions, SinusoidalPositions, sinusoidal_table


@pytest.mark.parametrize("dim", [4, 7, 16])
@pytest.mark.parametrize("first", [0, 1, 2, 6])
def test_sinusoidal_table_equals_formula(dim: int, first: int) -> None:
    table = sinusoidal_table(30, dim, first=first)
    assert table.dtype == torch.float32
    expected = np.zeros((30, dim))
    for row in range(30):
        for index in range(dim // 2):
            angle = (row + first) / 10000 ** (index / (dim // 2 - 1))
            expected[row, index], expected[row, dim // 2 + index] = np.sin(angle), np.cos(angle)
    np.testing.assert_allclose(table.numpy(), expected, atol=5e-6)


def test_narrow_table_is_finite() -> None:
    assert bool(sinusoidal_table(5, 2, first=2).isfinite().all())


def test_sinusoids_are_selected_by_start_and_length_and_not_saved() -> None:
    positions = SinusoidalPositions(10, 6, first=2)
    assert torch.equal(positions(3, 4), sinusoidal_table(10, 6, first=2)[3:7])
    assert not positions.state_dict()
    assert not list(positions.parameters())


def test_learned_positions_start_after_the_row_of_pad() -> None:
    positions = LearnedPositions(10, 6, pad=1)
    assert positions.weight.shape == (12, 6)  # fairseq's table: positions + pad + 1
    assert torch.equal(positions(0, 10), positions.weight[2:])
    assert torch.equal(positions(9, 1), positions.weight[11:])
    assert not positions.weight[1].any()
