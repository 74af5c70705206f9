"""Moving averages of weights, compared with their formula in numpy."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from kdmt.models.moving_average import decay_at, follow


def test_decay_rises_to_the_setting_as_in_marian() -> None:
    assert decay_at(0, 0.9999) == 0.1
    assert decay_at(8, 0.9999) == 0.5
    assert decay_at(10**9, 0.9999) == 0.9999
    assert decay_at(3, 0.2) == 0.2
    # Marian's own words: max(1e-4, 1 - (t + 1) / (t + 10)) of the new weights
    for update in (0, 1, 50, 89_900, 100_000):
        assert np.isclose(1.0 - decay_at(update, 1.0 - 1e-4), max(1e-4, 1.0 - (update + 1) / (update + 10)))


def test_average_follows_its_formula() -> None:
    rng = np.random.default_rng(1)
    steps = rng.normal(size=(30, 2, 5))
    expected, averages = steps[0].copy(), [torch.tensor(row) for row in steps[0]]
    for update, weights in enumerate(steps[1:]):
        decay = min(0.7, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * weights
        follow(averages, [torch.tensor(row) for row in weights], decay=decay_at(update, 0.7))
    np.testing.assert_allclose(np.stack([each.numpy() for each in averages]), expected, rtol=1e-12)


def parameters(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(33, 17), (17,), (1,), (5, 3, 2)] * 10]


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.9999])
def test_all_weights_are_updated_at_once_to_the_same_numbers_as_one_by_one(
    decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, averages = parameters(1), [each.detach().clone() for each in parameters(2)]
    expected = [average.lerp(weight.detach(), 1.0 - decay) for average, weight in zip(averages, weights, strict=True)]
    counted = Mock(wraps=torch._foreach_lerp_)
    monkeypatch.setattr(torch, "_foreach_lerp_", counted)
    follow(averages, weights, decay=decay)
    assert counted.call_count == 1
    assert all(map(torch.equal, averages, expected))
    assert not any(average.requires_grad for average in averages)


def test_the_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="40 averages of 39 weights"):
        follow([each.detach() for each in parameters(1)], parameters(2)[1:], decay=0.5)
    follow([], [], decay=0.5)
