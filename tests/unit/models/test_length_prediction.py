"""Tests of copying the source to the target length."""

from __future__ import annotations

import math

import pytest
import torch

from kdmt.models.length_prediction import soft_copy, uniform_copy


@pytest.mark.parametrize("left", [False, True])
def test_uniform_copy_reads_from_the_first_to_the_last_real_token(left: bool) -> None:
    keep, x = padded_sources([4, 5, 3], left=left)
    found = uniform_copy(x, keep, torch.tensor([7, 3, 1]), 7)
    assert found[:, :, 0].tolist() == [[0, 0, 1, 2, 2, 2, 3], [0, 2, 4, 4, 4, 4, 4], [0, 2, 2, 2, 2, 2, 2]]


@pytest.mark.parametrize("left", [False, True])
def test_soft_copy_is_weighted_by_distance(left: bool) -> None:
    keep, x = padded_sources([4, 5, 3], left=left)
    temperature = 0.7
    found = soft_copy(x, keep, torch.tensor([7, 3, 1]), 7, log_temperature=torch.tensor(temperature).log())
    for sentence, (src, tgt) in enumerate([(4, 7), (5, 3), (3, 1)]):
        for position in range(tgt):
            opposite = position * (src - 1) / max(tgt - 1, 1)
            weights = [math.exp(-abs(s - opposite) / temperature) for s in range(src)]
            expected = sum(s * weight for s, weight in enumerate(weights)) / sum(weights)
            assert float(found[sentence, position, 0]) == pytest.approx(expected, rel=1e-5)


def padded_sources(lengths: list[int], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mask of real tokens, and states of width 1 with the token's position, or -100 on padding."""
    keep = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
    x = torch.full((len(lengths), max(lengths), 1), -100.0)
    for row, length in enumerate(lengths):
        start = max(lengths) - length if left else 0
        keep[row, start : start + length] = True
        x[row, start : start + length, 0] = torch.arange(float(length))
    return keep, x
