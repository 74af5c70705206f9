"""An update on the GPU equals that on the CPU, for every objective."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gpu_cases import OBJECTIVES, PRE_NORM, make_batch, make_objective
from torch import Tensor

from kdmt.choices import Precision
from kdmt.corpus.batching import Batch, ParallelData
from kdmt.models import dropout
from kdmt.objectives.aligned import AlignedPositions
from kdmt.objectives.objective import Objective
from kdmt.objectives.positional import Glancing

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


@pytest.mark.parametrize("name", ["nat", "ctc", "dag"])
@pytest.mark.parametrize("same", [False, True])
def test_both_passes_of_glancing_have_the_same_dropout_masks_on_the_gpu_if_requested(
    name: str, same: bool, pairs: ParallelData, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Tensor] = []
    draw = dropout.F.dropout

    def record(x: Tensor, p: float, *, training: bool) -> Tensor:
        scaled = draw(torch.ones_like(x), p, training=training)
        masks.append(scaled.detach().cpu())
        return x * scaled

    monkeypatch.setattr(dropout.F, "dropout", record)
    objective = make_objective(f"{name}_glancing_as_published", dropout=0.3)
    view = objective.view
    assert isinstance(view, Glancing | AlignedPositions)
    glance = view.glance if isinstance(view, Glancing) else view.glancing
    assert glance is not None
    changed = replace(glance, same_dropout=same)
    if isinstance(view, Glancing):
        view.glance = changed
    else:
        view.glancing = changed
    run_update(objective, make_batch(name, pairs), cuda)
    # `ctc` and `dag` run the encoder once, and its masks are those of the embeddings and of two residuals per layer
    of_encoder = 0 if name == "nat" else 1 + 2 * len(objective.model.encoder_layers)
    half = (len(masks) - of_encoder) // 2
    first, second = masks[of_encoder : of_encoder + half], masks[of_encoder + half :]
    assert half > 2
    assert [torch.equal(one, other) for one, other in zip(first, second, strict=True)] == [same] * half


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
