"""Tests of the convex loss against its formula and the gradient of the likelihood."""

from __future__ import annotations

import math

import pytest
import torch

from kdmt.losses.convex import convex_loss, convex_weights


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_loss_is_length_times_one_minus_a_power_of_the_mean_probability(power: float) -> None:
    """The geometric mean of 0.5 and 0.125 is 0.25."""
    log_likelihood = torch.tensor([math.log(0.5) + math.log(0.125), math.log(0.9), 0.0, -5000.0], dtype=torch.float64)
    found = convex_loss(log_likelihood, torch.tensor([2, 1, 3, 4]), power=power)
    expected = torch.tensor([2 * (1 - 0.25**power), 1 - 0.9**power, 0.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_empty_target_has_no_loss() -> None:
    assert convex_loss(torch.zeros(1), torch.tensor([0]), power=3.0).tolist() == [0.0]


def test_gradcheck() -> None:
    log_likelihood = torch.tensor([-0.3, -4.0, -20.0], dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([1, 4, 9])
    assert torch.autograd.gradcheck(lambda values: convex_loss(values, lengths, power=3.0), (log_likelihood,))


def test_weights_are_the_factors_of_the_gradient() -> None:
    log_likelihood = torch.tensor([-0.3, -4.0, -20.0], dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([1, 4, 9])
    (gradient,) = torch.autograd.grad(convex_loss(log_likelihood, lengths, power=3.0).sum(), log_likelihood)
    torch.testing.assert_close(convex_weights(log_likelihood.detach(), lengths, power=3.0), -gradient)
