"""Tests of dropout, which draws four elements from one 64-bit number: their rates, scale and independence."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kdmt.models.dropout import Dropout, draw_mask

COUNT = 400_000


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.9])
def test_each_of_the_four_lanes_has_the_keep_rate(p: float) -> None:
    torch.manual_seed(1)
    kept_M4 = draw_mask(torch.Size([COUNT]), p)[0].view(-1, 4)
    five_sigma = 5 * math.sqrt(p * (1 - p) / len(kept_M4))
    for lane in range(4):
        assert float(kept_M4[:, lane].double().mean()) == pytest.approx(1 - p, abs=five_sigma)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_neighbours_are_independent(p: float) -> None:
    torch.manual_seed(2)
    kept = draw_mask(torch.Size([COUNT]), p)[0].double() - (1 - p)
    for distance in (1, 2, 3, 4, 5, 8):
        correlation = float((kept[:-distance] * kept[distance:]).mean()) / (p * (1 - p))
        assert abs(correlation) < 5 / math.sqrt(COUNT)


@given(p=st.floats(0.0001, 0.99))
def test_scale_is_the_inverse_of_the_keep_rate(p: float) -> None:
    _, scale = draw_mask(torch.Size([8]), p)
    kept_share = 1 - round(p * 2**16) / 2**16  # p is rounded to multiples of 2**-16
    assert scale == pytest.approx(1 / kept_share)
    assert kept_share == pytest.approx(1 - p, abs=2**-17)


@given(shape=st.lists(st.integers(0, 5), min_size=0, max_size=4))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_output_has_the_inputs_shape_and_type(shape: list[int], dtype: torch.dtype) -> None:
    output = Dropout(0.5).train()(torch.ones(shape, dtype=dtype))
    assert list(output.shape) == shape
    assert output.dtype == dtype
    assert bool(((output == 0) | (output == 2)).all())


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_scale_is_not_rounded_to_bf16(p: float) -> None:
    x = torch.linspace(1, 2, 129, dtype=torch.bfloat16)
    torch.manual_seed(1)
    found = Dropout(p).train()(x)
    torch.manual_seed(1)
    keep, scale = draw_mask(x.shape, p)
    assert torch.equal(found, (x.double() * keep * scale).to(torch.bfloat16))


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_no_random_numbers_are_drawn_without_effect(p: float, training: bool) -> None:
    x, before = torch.randn(7), torch.get_rng_state()
    assert Dropout(p).train(training)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_mask_depends_on_the_seed_and_is_applied_to_gradients() -> None:
    x = torch.ones(100, requires_grad=True)
    dropout = Dropout(0.3).train()
    torch.manual_seed(3)
    first = dropout(x)
    second = dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)
    first.sum().backward()
    assert torch.equal(x.grad, first.detach())


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6)])
def test_addition_to_output_of_linear_layer(shape: tuple[int, ...]) -> None:
    """The linear output of a 3-dimensional input is a view, which autograd treats differently; the result is equal."""
    torch.manual_seed(1)
    linear, dropout = nn.Linear(6, 6).double(), Dropout(0.4).train()
    x, h, weights = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    found: list[Tensor] = []
    expected: list[Tensor] = []
    for results in (found, expected):
        torch.manual_seed(2)
        inputs = [each.clone().requires_grad_() for each in (x, h)]
        update = linear(inputs[1])
        if results is found:
            total = dropout.add(2 * inputs[0], update)
        else:
            keep, scale = draw_mask(x.shape, 0.4)
            total = 2 * inputs[0] + update * keep * scale
        results += [total, *torch.autograd.grad((total * weights).sum(), [*inputs, *linear.parameters()])]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_the_sum_does_not_change_its_inputs_so_that_autograd_copies_no_gradient() -> None:
    x, linear = torch.randn(2, 3, 4), torch.nn.Linear(4, 4)
    update = linear(x)  # a view of a matrix
    before = update.detach().clone()
    total = Dropout(0.4).add(x, update)
    assert torch.equal(update, before)
    assert "CopySlices" not in type(total.grad_fn).__name__
