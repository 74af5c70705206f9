"""An update on the GPU equals that on the CPU, for every objective."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import OBJECTIVES, PRE_NORM, make_batch, make_objective
from torch import Tensor

from kdmt.choices import Precision
from kdmt.corpus.batching import Batch, ParallelData
from kdmt.objectives.objective import Objective

CPU = torch.device("cpu")


def run_update(
    objective: Objective, batch: Batch, device: torch.device, precision: Precision = "float32"
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the sums of the terms and the gradients of a batch; random choices come from the CPU's generator."""
    objective.to(device)
    objective.train()
    objective.use(precision)
    objective.before_update(0)
    torch.manual_seed(7)
    prepared = objective.prepare(batch.to(device))
    counts = objective.counts(prepared)
    terms = objective(prepared)
    torch.stack(
        [term.sum * (term.weight / (counts[name] or 1.0)) for name, term in terms.items() if term.weight]
    ).sum().backward()
    sums = {name: float(term.sum.detach()) for name, term in terms.items()}
    gradients = {
        name: parameter.grad.detach().cpu().double()
        for name, parameter in objective.trained().items()
        if parameter.grad is not None
    }
    return sums, gradients


def relative_distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference of all gradients, divided by the norm of the expected ones."""
    assert found.keys() == expected.keys()
    whole = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    difference = torch.cat([(found[name] - expected[name]).flatten() for name in expected]).norm()
    return float(difference / whole)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_update_equals_that_of_the_cpu(name: str, pairs: ParallelData, cuda: torch.device) -> None:
    batch = make_batch(name, pairs)
    expected, expected_gradients = run_update(make_objective(name), batch, CPU)
    found, gradients = run_update(make_objective(name), batch, cuda)
    assert found.keys() == expected.keys()
    for term, value in expected.items():
        assert found[term] == pytest.approx(value, rel=2e-4, abs=1e-3), term
    assert relative_distance(gradients, expected_gradients) <= 2e-3


BF16 = (
    "teacher",
    "word_kd",
    "word_kd_cache",
    "hidden_attention_kd",
    "nat",
    "nat_crf",
    "ctc_glancing",
    "dag",
    "levenshtein",
)


@pytest.mark.parametrize("name", BF16)
def test_update_in_bf16_is_near_that_in_float32(name: str, pairs: ParallelData, cuda: torch.device) -> None:
    batch = make_batch(name, pairs)
    expected, expected_gradients = run_update(make_objective(name), batch, cuda)
    found, gradients = run_update(make_objective(name), batch, cuda, "bf16")
    assert found["loss"] == pytest.approx(expected["loss"], rel=2e-3)
    assert 1e-4 < relative_distance(gradients, expected_gradients) <= 0.04


def test_update_of_a_pre_norm_model_with_learned_positions_equals_that_of_the_cpu(
    pairs: ParallelData, cuda: torch.device
) -> None:
    batch = make_batch("teacher", pairs)
    expected, expected_gradients = run_update(make_objective("teacher", **PRE_NORM), batch, CPU)
    found, gradients = run_update(make_objective("teacher", **PRE_NORM), batch, cuda)
    assert found["loss"] == pytest.approx(expected["loss"], rel=2e-4)
    assert relative_distance(gradients, expected_gradients) <= 2e-3
