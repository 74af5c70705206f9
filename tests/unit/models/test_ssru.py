"""Tests of the SSRU and its scan against loops over the positions, in float64."""

from __future__ import annotations

import marian_reference
import numpy as np
import pytest
import torch
from torch import Tensor

from kdmt.models import ssru
from kdmt.models.ssru import SSRU, linear_scan
from kdmt.types import Packing


def by_loop(decay_BTD: Tensor, input_BTD: Tensor) -> Tensor:
    states = [input_BTD[:, 0]]
    for position in range(1, input_BTD.size(1)):
        states.append(decay_BTD[:, position] * states[-1] + input_BTD[:, position])
    return torch.stack(states, dim=1)


def random_scan(batch: int, length: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    decay_BTD = torch.rand(batch, length, dim, dtype=torch.float64, generator=generator)
    input_BTD = torch.randn(batch, length, dim, dtype=torch.float64, generator=generator)
    return decay_BTD.requires_grad_(), input_BTD.requires_grad_()


@pytest.fixture(params=["one after the other", "in rounds"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute on the CPU as on a GPU too."""
    if request.param == "in rounds":
        monkeypatch.setattr(ssru, "_runs_in_order", lambda _: False)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("length", [1, 2, 3, 8, 13, 200])
def test_scan_and_its_gradients_are_those_of_a_loop(length: int) -> None:
    inputs = random_scan(3, length, 5)
    wanted_BTD, found_BTD = by_loop(*inputs), linear_scan(*inputs)
    torch.testing.assert_close(found_BTD, wanted_BTD, rtol=1e-12, atol=1e-12)
    weights_BTD = torch.randn_like(wanted_BTD)
    wanted = torch.autograd.grad((wanted_BTD * weights_BTD).sum(), inputs, materialize_grads=True)
    found = torch.autograd.grad((found_BTD * weights_BTD).sum(), inputs, materialize_grads=True)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("_both_ways")
def test_gradients_of_the_scan_are_those_of_differences() -> None:
    assert torch.autograd.gradcheck(linear_scan, random_scan(2, 7, 3))


def make_unit() -> SSRU:
    torch.manual_seed(1)
    unit = SSRU(6).double()
    torch.nn.init.normal_(unit.gate_proj.bias)
    return unit


@torch.no_grad()
def test_output_is_that_of_the_formula_in_training_and_in_decoding() -> None:
    unit, x_BTD = make_unit(), torch.randn(4, 9, 6, dtype=torch.float64)
    weights = {f"unit.{name}": parameter.numpy() for name, parameter in unit.named_parameters()}
    wanted_BTD = np.stack([marian_reference.ssru(weights, "unit", x_TD.numpy()) for x_TD in x_BTD])
    np.testing.assert_allclose(unit(x_BTD).numpy(), wanted_BTD, rtol=0, atol=1e-12)
    state_ND = unit.first_state(4, x_BTD)
    steps = [unit.step(x_BTD[:, position], state_ND) for position in range(9)]
    np.testing.assert_allclose(torch.stack(steps, 1).numpy(), wanted_BTD, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("_both_ways")
@torch.no_grad()
def test_packed_sentences_do_not_read_each_other() -> None:
    unit, x_1ND = make_unit(), torch.randn(1, 12, 6, dtype=torch.float64)
    packing = Packing(
        starts=torch.tensor([0, 4, 5, 10, 12], dtype=torch.int32),
        position_N=torch.tensor([0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 0, 0]),
        num_sentences=3,
        num_tokens=10,
        longest=5,
        max_length=6,
    )
    found_ND = unit(x_1ND, packing)[0]
    for start, end in ((0, 4), (4, 5), (5, 10)):
        torch.testing.assert_close(found_ND[start:end], unit(x_1ND[:, start:end])[0], rtol=0, atol=1e-12)


@torch.no_grad()
def test_states_of_bfloat16_are_float32() -> None:
    """A gate of 0.999 is 1 in bfloat16: the state would stay 0."""
    unit = SSRU(1).bfloat16()
    unit.gate_proj.weight.fill_(0.0)
    unit.gate_proj.bias.fill_(7.0)  # f = 0.99909
    unit.state_proj.weight.fill_(1.0)
    found_BTD = unit(torch.ones(1, 100, 1, dtype=torch.bfloat16))
    assert found_BTD.dtype == torch.float32
    assert found_BTD[0, -1].item() == pytest.approx(1 - (1 / (1 + np.exp(-7.0))) ** 100, rel=1e-3)
