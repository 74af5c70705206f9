"""Triton kernels of the losses: against the formulas in float64, the PyTorch losses, finite differences, enumeration.

They run on a GPU, and on CPUs where `triton` can be imported, by its interpreter, which executes kernels with numpy.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nat_oracles as oracle
import pytest
import torch
from torch import Tensor

from kdmt.losses import cross_entropy, ctc, fused
from kdmt.losses.cross_entropy import label_smoothed_cross_entropy, projected_cross_entropy, projected_loss
from kdmt.losses.divergences import divergence
from kdmt.losses.word_kd import BestTokens, WholeDistribution, WordKDLoss

HAS_GPU = torch.cuda.is_available() and bool(torch.version.cuda or torch.version.hip)
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not HAS_GPU and "triton" in sys.modules:
    pytest.skip("triton was imported before without its interpreter", allow_module_level=True)
with pytest.MonkeyPatch.context() as environment:
    if not HAS_GPU:
        environment.setenv("TRITON_INTERPRET", "1")  # read when a kernel is defined, by triton's own as well
    triton_kernels = importlib.import_module("kdmt.losses.triton_kernels")

DEVICE = torch.device("cuda:0" if HAS_GPU else "cpu")


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS_GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # modules of triton that are loaded by the first call read it too


BFLOAT16 = 2**-8 if HAS_GPU else 2**-7  # largest relative error of rounding; the interpreter rounds towards zero
VOCABULARIES = [1, 7, 1000, 32_001]
INFINITY = float("inf")


def random_logits(rows: int, vocab_size: int, dtype: torch.dtype = torch.float32, *, seed: int = 0) -> Tensor:
    """Return normal logits [C, V] times 3."""
    generator = torch.Generator().manual_seed(seed)
    return (3.0 * torch.randn(rows, vocab_size, generator=generator)).to(DEVICE, dtype)


def random_targets(rows: int, vocab_size: int, *, seed: int = 1) -> Tensor:
    return torch.randint(vocab_size, (rows,), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


# ------------------------------------------------------------------------------------------------------ cross entropy


def expected_cross_entropy(
    logits_CV: Tensor, targets_C: Tensor, epsilon: float, weights_C: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss [C], negative log-likelihood [C] and gradient [C, V] in float64, by the formula and autograd."""
    logits_CV = logits_CV.double().requires_grad_()
    each = epsilon / (logits_CV.size(1) - 1) if epsilon else 0.0
    log_probs_CV = logits_CV.log_softmax(1)
    nll_C = -log_probs_CV.gather(1, targets_C[:, None])[:, 0]
    weights_C = torch.ones_like(nll_C) if weights_C is None else weights_C.double()
    loss_C = (1.0 - epsilon - each) * nll_C * weights_C
    if each:
        loss_C = loss_C - each * log_probs_CV.sum(1) * weights_C
    (gradient_CV,) = torch.autograd.grad(loss_C.sum(), logits_CV)
    return loss_C.detach(), (nll_C * weights_C).detach(), gradient_CV


def kernel_cross_entropy(
    logits_CV: Tensor, targets_C: Tensor, epsilon: float, weights_C: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    each = epsilon / (logits_CV.size(1) - 1) if epsilon else 0.0
    gradient_CV = logits_CV.clone()
    loss_C, nll_C = triton_kernels.cross_entropy_(
        gradient_CV, targets_C, weights_C, target_share=1.0 - epsilon - each, each=each, gradient=True
    )
    return loss_C.double(), nll_C.double(), gradient_CV.double()


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], *, gradient: float) -> None:
    """Compare values within 1e-5 and the gradient, the last tensor, within a relative error."""
    for own, other in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[-1], expected[-1], rtol=gradient, atol=1e-7)


CROSS_ENTROPIES = [(size, epsilon) for size in VOCABULARIES for epsilon in (0.0, 0.1) if size > 1 or not epsilon]


@pytest.mark.parametrize(("vocab_size", "epsilon"), CROSS_ENTROPIES)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, BFLOAT16)])
def test_cross_entropy_is_the_formula(vocab_size: int, epsilon: float, dtype: torch.dtype, rounding: float) -> None:
    logits_CV, targets_C = random_logits(3, vocab_size, dtype), random_targets(3, vocab_size)
    found = kernel_cross_entropy(logits_CV, targets_C, epsilon)
    assert_same(found, expected_cross_entropy(logits_CV, targets_C, epsilon), gradient=rounding)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_weights_multiply_loss_and_gradient_and_zero_removes_a_token(epsilon: float) -> None:
    logits_CV, targets_C = random_logits(4, 1000), random_targets(4, 1000)
    weights_C = torch.tensor([0.5, 0.0, 1.0, 3.0], device=DEVICE)
    found = kernel_cross_entropy(logits_CV, targets_C, epsilon, weights_C)
    assert_same(found, expected_cross_entropy(logits_CV, targets_C, epsilon, weights_C), gradient=1e-5)
    assert [float(each.abs().sum()) for each in (found[0][1], found[1][1], found[2][1])] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_large_logits_do_not_overflow(epsilon: float, scale: float) -> None:
    logits_CV, targets_C = scale * random_logits(3, 5000), random_targets(3, 5000)
    loss_C, nll_C, gradient_CV = kernel_cross_entropy(logits_CV, targets_C, epsilon)
    expected = expected_cross_entropy(logits_CV, targets_C, epsilon)
    for own, other in zip((loss_C, nll_C), expected[:2], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(gradient_CV, expected[2], rtol=1e-4, atol=1e-7)


def test_a_logit_of_minus_infinity_has_probability_zero() -> None:
    logits_CV, targets_C = random_logits(3, 9000), torch.tensor([8999, 5, 4500], device=DEVICE)
    logits_CV[0, :8500] = -INFINITY  # whole blocks before the first finite logit
    logits_CV[1, 100:] = -INFINITY
    found = kernel_cross_entropy(logits_CV, targets_C, 0.0)
    assert_same(found, expected_cross_entropy(logits_CV, targets_C, 0.0), gradient=1e-5)
    assert torch.isfinite(found[2]).all()
    assert not found[2][0, :8500].any()


def test_label_smoothing_with_a_logit_of_minus_infinity_is_an_infinite_loss_with_a_finite_gradient() -> None:
    logits_CV, targets_C = random_logits(2, 50), random_targets(2, 50)
    logits_CV[:, 7] = -INFINITY
    loss_C, _, gradient_CV = kernel_cross_entropy(logits_CV, targets_C, 0.1)
    assert loss_C.tolist() == [INFINITY, INFINITY]
    torch.testing.assert_close(gradient_CV, expected_cross_entropy(logits_CV, targets_C, 0.1)[2], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), INFINITY])
def test_a_logit_that_is_not_a_number_reaches_the_loss(bad: float) -> None:
    logits_CV, targets_C = random_logits(2, 5000), random_targets(2, 5000)
    logits_CV[1, 4999] = bad
    loss_C, _, gradient_CV = kernel_cross_entropy(logits_CV, targets_C, 0.1)
    assert torch.isfinite(loss_C).tolist() == [True, False]
    assert not torch.isfinite(gradient_CV[1]).all()


def test_logits_stay_where_no_gradient_is_wanted() -> None:
    logits_CV, targets_C = random_logits(2, 1000), random_targets(2, 1000)
    before_CV = logits_CV.clone()
    sums_2C = triton_kernels.cross_entropy_(logits_CV, targets_C, None, target_share=1.0, each=0.0, gradient=False)
    assert torch.equal(logits_CV, before_CV)
    expected = expected_cross_entropy(logits_CV, targets_C, 0.0)
    torch.testing.assert_close(sums_2C[0].double(), expected[0], rtol=1e-5, atol=1e-5)


def test_columns_after_the_vocabulary_are_neither_read_nor_written() -> None:
    held_CW = torch.full((3, 1008), float("nan"), device=DEVICE)
    held_CW[:, :1001] = random_logits(3, 1001)
    targets_C = random_targets(3, 1001)
    expected = expected_cross_entropy(held_CW[:, :1001].clone(), targets_C, 0.1)
    each = 0.1 / 1000
    sums_2C = triton_kernels.cross_entropy_(
        held_CW[:, :1001], targets_C, None, target_share=0.9 - each, each=each, gradient=True
    )
    assert_same((*sums_2C.double(), held_CW[:, :1001].double()), expected, gradient=1e-5)
    assert held_CW[:, 1001:].isnan().all()


def test_no_token_gives_no_loss() -> None:
    logits_CV, targets_C = random_logits(0, 10), random_targets(0, 10)
    found = triton_kernels.cross_entropy_(logits_CV, targets_C, None, target_share=1.0, each=0.0, gradient=True)
    assert found.shape == (2, 0)


def test_rows_that_are_not_adjacent_are_rejected() -> None:
    with pytest.raises(ValueError, match="adjacent"):
        triton_kernels.cross_entropy_(
            random_logits(4, 4).t(), random_targets(4, 4), None, target_share=1.0, each=0.0, gradient=True
        )


# --------------------------------------------------------------------------------------------- with the projection


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the losses use the kernels on the device of these tests."""
    monkeypatch.setattr(fused, "kernels", lambda _device, _type: triton_kernels)
    monkeypatch.setattr(fused, "distils", lambda _device: True)


def projected(
    features_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, epsilon: float, **settings: object
) -> tuple[Tensor, ...]:
    """Return loss, negative log-likelihood and the gradients of 3 * loss."""
    features_MD, weight_VD = features_MD.clone().requires_grad_(), weight_VD.clone().requires_grad_()
    loss, nll = projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=epsilon, **settings)
    assert not nll.requires_grad
    return loss.detach(), nll, *torch.autograd.grad(3 * loss, [features_MD, weight_VD])


def exact_projected(
    features_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, epsilon: float, weights_M: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return the same in float64."""
    features_MD, weight_VD = (each.double().requires_grad_() for each in (features_MD, weight_VD))
    if weights_M is None:
        loss, nll = label_smoothed_cross_entropy(features_MD @ weight_VD.t(), targets_M, epsilon=epsilon)
    else:
        parts = [
            label_smoothed_cross_entropy(features_MD[[row]] @ weight_VD.t(), targets_M[[row]], epsilon=epsilon)
            for row in range(len(targets_M))
        ]
        loss, nll = (sum(w * part[i] for w, part in zip(weights_M.double(), parts, strict=True)) for i in (0, 1))
    return loss.detach(), nll.detach(), *torch.autograd.grad(3 * loss, [features_MD, weight_VD])


def projection_inputs(tokens: int, vocab_size: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    features_MD = torch.randn(tokens, dim, generator=generator).to(DEVICE)
    weight_VD = torch.randn(vocab_size, dim, generator=generator).to(DEVICE)
    return features_MD, weight_VD, random_targets(tokens, vocab_size)


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_projected_cross_entropy_in_float32(chunk: int | None, epsilon: float, weighted: bool) -> None:
    features_MD, weight_VD, targets_M = projection_inputs(9, 1001, 8)
    weights_M = torch.arange(9, device=DEVICE) / 4.0 if weighted else None
    found = projected(features_MD, weight_VD, targets_M, epsilon, chunk=chunk, weights_M=weights_M)
    expected = exact_projected(features_MD, weight_VD, targets_M, epsilon, weights_M)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own.double(), other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("features_type", [torch.float32, torch.bfloat16])
def test_projected_cross_entropy_in_bfloat16_is_as_near_as_the_pytorch_path(
    features_type: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    features_MD, weight_VD, targets_M = projection_inputs(40, 1001, 16)
    weight_VD *= 0.3
    features_MD = features_MD.to(features_type)
    exact = exact_projected(features_MD, weight_VD, targets_M, 0.1)
    found = projected(features_MD, weight_VD, targets_M, 0.1, chunk=16, product_type=torch.bfloat16)
    assert [each.dtype for each in found[2:]] == [features_type, torch.float32]
    monkeypatch.setattr(fused, "kernels", lambda _device, _type: None)
    plain = projected(features_MD, weight_VD, targets_M, 0.1, chunk=16, product_type=torch.bfloat16)

    def errors(values: tuple[Tensor, ...]) -> list[float]:
        return [float((own.double() - best).norm() / best.norm()) for own, best in zip(values, exact, strict=True)]

    for own, of_plain in zip(errors(found), errors(plain), strict=True):
        assert own < max(1.5 * of_plain, 1e-3)


@pytest.mark.usefixtures("with_kernels")
def test_backward_may_run_twice_and_no_tokens_are_allowed() -> None:
    features_MD, weight_VD, targets_M = projection_inputs(5, 13, 4)
    features_MD.requires_grad_()
    loss, _ = projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=0.1)
    first, second = (torch.autograd.grad(2 * loss, features_MD, retain_graph=again)[0] for again in (True, False))
    assert torch.equal(first, second)
    none, nll = projected_cross_entropy(features_MD[:0], weight_VD, targets_M[:0], epsilon=0.1)
    assert [float(none.detach()), float(nll)] == [0.0, 0.0]


@pytest.mark.usefixtures("with_kernels")
def test_without_a_gradient_only_the_loss_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    features_MD, weight_VD, targets_M = projection_inputs(5, 13, 4)
    expected = projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=0.1)
    monkeypatch.setattr(cross_entropy, "write_product", None)  # a call would raise
    with torch.no_grad():
        found = projected_cross_entropy(features_MD, weight_VD.requires_grad_(), targets_M, epsilon=0.1)
    assert [float(each) for each in found] == [float(each) for each in expected]


# ------------------------------------------------------------------------------------------- word-level distillation


@dataclass(frozen=True)
class Distilled:
    """Settings of the loss of a token; `num_best` tokens are known of the teacher, None for the whole distribution."""

    temperature: float = 1.0
    alpha: float = 0.5
    epsilon: float = 0.1
    has_references: bool = True
    divergence: str = "kl"
    num_best: int | None = None

    def each(self, vocab_size: int) -> float:
        return self.epsilon / (vocab_size - 1) if self.epsilon else 0.0

    def kernel_settings(self, vocab_size: int) -> Any:
        return triton_kernels.WordKD(
            temperature=self.temperature,
            alpha=self.alpha,
            scale=self.temperature**2,
            has_references=self.has_references,
            minus_entropy=self.divergence == "kl",
            target_share=1.0 - self.epsilon - self.each(vocab_size),
            each=self.each(vocab_size),
        )


def best_of(teacher_CV: Tensor, num_best: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the ids of the best tokens, and the logarithms of their probabilities and of the sum of all others."""
    log_p_CV = (teacher_CV.double() / temperature).log_softmax(1)
    ids_CK = log_p_CV.topk(num_best, dim=1).indices
    rest_C1 = log_p_CV.scatter(1, ids_CK, -INFINITY).logsumexp(1, keepdim=True)
    return ids_CK, torch.cat([log_p_CV.gather(1, ids_CK), rest_C1], dim=1)


def expected_distillation(
    logits_CV: Tensor,
    teacher_CV: Tensor,
    targets_C: Tensor,
    settings: Distilled,
    taught_C: Tensor | None = None,
    weights_C: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Return loss, negative log-likelihood, scaled divergence [C] and gradient [C, V] in float64."""
    logits_CV = logits_CV.double().requires_grad_()
    ones_C = torch.ones(len(logits_CV), dtype=torch.float64, device=logits_CV.device)
    taught_C, weights_C = (ones_C if each is None else each.double() for each in (taught_C, weights_C))
    log_q_CV, each = logits_CV.log_softmax(1), settings.each(logits_CV.size(1))
    nll_C = -log_q_CV.gather(1, targets_C[:, None])[:, 0]
    smooth_C = (1.0 - settings.epsilon - each) * nll_C
    if each:
        smooth_C = smooth_C - each * log_q_CV.sum(1)
    log_p, log_q = ((one.double() / settings.temperature).log_softmax(1) for one in (teacher_CV, logits_CV))
    if settings.num_best is not None:
        ids_CK, log_p = best_of(teacher_CV, settings.num_best, settings.temperature)
        rest_C1 = log_q.scatter(1, ids_CK, -INFINITY).logsumexp(1, keepdim=True)
        log_q = torch.cat([log_q.gather(1, ids_CK), rest_C1], dim=1)
    parts = log_p.exp() * ((log_p if settings.divergence == "kl" else 0.0) - log_q)
    value_C = settings.temperature**2 * torch.where(log_p.exp() > 0.0, parts, 0.0).sum(1) * taught_C
    hard_C = 1.0 - settings.alpha * taught_C if settings.has_references else 0.0 * ones_C
    loss_C = torch.where(hard_C > 0.0, hard_C * smooth_C, 0.0) + settings.alpha * value_C
    (gradient_CV,) = torch.autograd.grad((loss_C * weights_C).sum(), logits_CV)
    values = (loss_C * weights_C, nll_C * weights_C, value_C * weights_C, taught_C * weights_C)
    return *(each.detach() for each in values), gradient_CV


def kernel_distillation(
    logits_CV: Tensor,
    teacher_CV: Tensor,
    targets_C: Tensor,
    settings: Distilled,
    taught_C: Tensor | None = None,
    weights_C: Tensor | None = None,
) -> tuple[Tensor, ...]:
    gradient_CV, numbers = logits_CV.clone(), settings.kernel_settings(logits_CV.size(1))
    shared = targets_C, taught_C, weights_C, numbers
    if settings.num_best is None:
        sums_4C = triton_kernels.whole_distribution_(gradient_CV, teacher_CV.clone(), *shared, gradient=True)
    else:
        ids_CK, log_probs_CG = best_of(teacher_CV, settings.num_best, settings.temperature)
        best = ids_CK, log_probs_CG.float()
        sums_4C = triton_kernels.best_tokens_(gradient_CV, *best, *shared, log_zero=-1e4, gradient=True)
    return *sums_4C.double(), gradient_CV.double()


DISTILLED = [
    Distilled(),
    Distilled(epsilon=0.0),
    Distilled(temperature=2.5),
    Distilled(temperature=0.5, epsilon=0.0, alpha=0.9),
    Distilled(divergence="cross_entropy"),
    Distilled(divergence="cross_entropy", temperature=2.5),
    Distilled(has_references=False, alpha=1.0),
    Distilled(has_references=False, alpha=1.0, temperature=2.5),
]
BEST = [None, 1, 5, 8]


@pytest.mark.parametrize("num_best", BEST)
@pytest.mark.parametrize("settings", DISTILLED, ids=str)
def test_distillation_is_the_formula(settings: Distilled, num_best: int | None) -> None:
    settings = replace(settings, num_best=num_best)
    logits_CV, teacher_CV = random_logits(3, 1000), random_logits(3, 1000, seed=5)
    targets_C = random_targets(3, 1000)
    targets_C[0] = teacher_CV[0].argmax()
    found = kernel_distillation(logits_CV, teacher_CV, targets_C, settings)
    expected = expected_distillation(logits_CV, teacher_CV, targets_C, settings)
    assert_same(found, expected, gradient=2e-5)


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("num_best", [None, 1, 7])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-4), (torch.bfloat16, BFLOAT16)])
def test_distillation_of_any_vocabulary(
    vocab_size: int, num_best: int | None, dtype: torch.dtype, rounding: float
) -> None:
    if num_best is not None and num_best > vocab_size:
        pytest.skip("more tokens than the vocabulary has")
    settings = Distilled(epsilon=0.1 if vocab_size > 1 else 0.0, temperature=2.0, num_best=num_best)
    logits_CV, teacher_CV = (random_logits(3, vocab_size, dtype, seed=seed) for seed in (0, 5))
    targets_C = random_targets(3, vocab_size)
    found = kernel_distillation(logits_CV, teacher_CV, targets_C, settings)
    expected = expected_distillation(logits_CV, teacher_CV, targets_C, settings)
    for own, other in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(found[-1], expected[-1], rtol=1.1 * rounding, atol=1e-6)


@pytest.mark.parametrize("num_best", BEST)
def test_only_some_tokens_are_taught_and_tokens_have_weights(num_best: int | None) -> None:
    settings = Distilled(num_best=num_best, temperature=2.0)
    logits_CV, teacher_CV, targets_C = random_logits(4, 500), random_logits(4, 500, seed=5), random_targets(4, 500)
    taught_C = torch.tensor([1.0, 0.0, 1.0, 0.0], device=DEVICE)
    weights_C = torch.tensor([0.5, 2.0, 0.0, 1.0], device=DEVICE)
    found = kernel_distillation(logits_CV, teacher_CV, targets_C, settings, taught_C, weights_C)
    expected = expected_distillation(logits_CV, teacher_CV, targets_C, settings, taught_C, weights_C)
    assert_same(found, expected, gradient=2e-5)
    assert not found[-1][2].any()
    of_targets = kernel_cross_entropy(logits_CV[[3]], targets_C[[3]], settings.epsilon)
    torch.testing.assert_close(found[-1][[3]], of_targets[-1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_best", [None, 3])
@pytest.mark.parametrize("divergence_name", ["kl", "cross_entropy"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_with_large_logits(num_best: int | None, divergence_name: str, temperature: float) -> None:
    settings = Distilled(num_best=num_best, divergence=divergence_name, temperature=temperature)
    logits_CV, teacher_CV = 1e4 * random_logits(3, 5000), 1e4 * random_logits(3, 5000, seed=5)
    targets_C = random_targets(3, 5000)
    found = kernel_distillation(logits_CV, teacher_CV, targets_C, settings)
    expected = list(expected_distillation(logits_CV, teacher_CV, targets_C, settings))
    if num_best is None:
        for own, other in zip(found[:-1], expected[:-1], strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[-1], expected[-1], rtol=1e-4, atol=1e-6)
    else:  # logarithms of the cache are bounded
        assert all(torch.isfinite(each).all() for each in found)


def test_a_large_constant_in_the_logits_of_the_teacher_or_the_student_changes_nothing() -> None:
    logits_CV, teacher_CV = (random_logits(3, 9000, seed=seed).round() for seed in (0, 5))
    targets_C = random_targets(3, 9000)
    expected = expected_distillation(logits_CV, teacher_CV, targets_C, Distilled())
    for own, other in ((2.0**17, 0.0), (0.0, -(2.0**17)), (2.0**17, 2.0**18)):
        found = kernel_distillation(logits_CV + own, teacher_CV + other, targets_C, Distilled())
        torch.testing.assert_close(found[2], expected[2], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[-1], expected[-1], rtol=1e-4, atol=1e-7)


def test_a_token_that_both_exclude_counts_as_zero_and_one_that_only_the_student_excludes_as_infinity() -> None:
    settings = Distilled(epsilon=0.0)
    logits_CV, teacher_CV, targets_C = random_logits(3, 9000), random_logits(3, 9000, seed=5), random_targets(3, 10)
    targets_C += 8800
    logits_CV[0, :8500] = teacher_CV[0, :8500] = -INFINITY  # both, for whole blocks
    teacher_CV[1, :8500] = -INFINITY
    logits_CV[2, 17] = -INFINITY
    found = kernel_distillation(logits_CV, teacher_CV, targets_C, settings)
    expected = expected_distillation(logits_CV[:2, :], teacher_CV[:2], targets_C[:2], settings)
    with_zeros = expected_distillation(logits_CV[:1, 8500:], teacher_CV[:1, 8500:], targets_C[:1] - 8500, settings)
    torch.testing.assert_close(found[2][:1], with_zeros[2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[-1][:1, 8500:], with_zeros[-1], rtol=1e-4, atol=1e-7)
    assert not found[-1][0, :8500].any()
    torch.testing.assert_close(found[2][1], expected[2][1], rtol=1e-5, atol=1e-5)
    assert float(found[2][2]) == INFINITY
    assert torch.isfinite(found[-1]).all()


def test_a_student_that_is_sure_of_a_token_has_a_finite_gradient_for_all_others() -> None:
    """The probability of the others is 0 in float32: nothing is divided by it."""
    logits_CV = torch.tensor([[200.0, -200.0, -201.0, -200.0]], device=DEVICE)
    ids_CK = torch.tensor([[0, 1]], device=DEVICE)
    log_probs_CG = torch.tensor([[0.4, 0.3, 0.3]], device=DEVICE).log()
    settings = Distilled(epsilon=0.0, has_references=False, alpha=1.0).kernel_settings(4)
    targets_C = torch.tensor([2], device=DEVICE)
    sums_4C = triton_kernels.best_tokens_(
        logits_CV, ids_CK, log_probs_CG, targets_C, None, None, settings, log_zero=-1e4, gradient=True
    )
    rest = -200.0 + math.log(1.0 + math.exp(-1.0)) - 200.0
    expected = 0.4 * math.log(0.4) + 0.3 * (math.log(0.3) + 400.0) + 0.3 * (math.log(0.3) - rest)
    assert float(sums_4C[2, 0]) == pytest.approx(expected, rel=1e-5)
    share = 0.3 / (1.0 + math.exp(-1.0))  # q is 1, 0, 0, 0
    wanted = torch.tensor([[0.6, -0.3, -share * math.exp(-1.0), -share]], device=DEVICE)
    torch.testing.assert_close(logits_CV, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("num_best", [None, 4])
@pytest.mark.parametrize("chosen", [{}, {"taught_M": True}, {"min_confidence": 0.1}, {"max_entropy": 1.5}])
@pytest.mark.parametrize("weighted", [False, True])
def test_word_kd_with_the_projection_is_the_pytorch_path_in_float64(
    num_best: int | None, chosen: dict[str, Any], weighted: bool
) -> None:
    features_MD, weight_VD, targets_M = projection_inputs(9, 101, 8)
    teacher_MD, teacher_VD, _ = (0.5 * each for each in projection_inputs(9, 101, 8))
    teacher_VD = teacher_VD.flip(0).contiguous()
    ids_MK, log_probs_MG = best_of(teacher_MD @ teacher_VD.t(), num_best or 1, 2.0)
    if "taught_M" in chosen:
        chosen = {"taught_M": torch.arange(9, device=DEVICE) % 3 == 0}

    def computed(dtype: torch.dtype) -> tuple[tuple[Tensor, ...], bool]:
        features, weight = (each.to(dtype).requires_grad_() for each in (features_MD, weight_VD))
        whole = WholeDistribution((teacher_MD.to(dtype),), (teacher_VD.to(dtype),), 2.0)
        loss = WordKDLoss(
            targets_M=targets_M,
            epsilon=0.1,
            alpha=0.4,
            divergence=divergence("kl"),
            teacher=whole if num_best is None else BestTokens(ids_MK, log_probs_MG.to(dtype)),
            temperature=2.0,
            weights_M=torch.arange(9, device=DEVICE).to(dtype) / 4.0 if weighted else None,
            **chosen,
        )
        is_kernel = dtype == torch.float32 and loss.with_kernels(triton_kernels) is not None
        with pytest.MonkeyPatch.context() as patch:
            if dtype == torch.float64:
                patch.setattr(fused, "kernels", lambda _device, _type: None)
            total, parts = projected_loss(features, weight, loss, chunk=4)
        values = (total.detach(), parts, *torch.autograd.grad(2 * total, [features, weight]))
        return tuple(each.double() for each in values), is_kernel

    (found, is_kernel), (expected, _) = computed(torch.float32), computed(torch.float64)
    assert is_kernel or (num_best is None and bool({"min_confidence", "max_entropy"} & set(chosen)))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=2e-5 * float(other.abs().max()))


@pytest.mark.parametrize("name", ["whole_distribution_", "best_tokens_"])
@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_the_trial_of_word_kd_passes_and_finds_wrong_values(
    name: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused._try_distillation(triton_kernels, DEVICE)
    correct = getattr(triton_kernels, name)

    def wrong(logits_CV: Tensor, *args: Any, **settings: Any) -> Tensor:
        sums_4C = correct(logits_CV, *args, **settings)
        if part == "loss":
            sums_4C[0, 1] *= 1.01
        else:
            logits_CV[:, triton_kernels.BLOCK :] = 0.0  # as if the last block had no gradient
        return sums_4C

    monkeypatch.setattr(triton_kernels, name, wrong)
    with pytest.raises(AssertionError):
        fused._try_distillation(triton_kernels, DEVICE)


@pytest.mark.usefixtures("with_kernels")
def test_word_kd_whose_trial_fails_is_computed_with_pytorch_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "distils", lambda _device: False)
    monkeypatch.setattr(triton_kernels, "whole_distribution_", None)
    features_MD, weight_VD, targets_M = projection_inputs(9, 101, 8)
    teacher = WholeDistribution((features_MD.flip(0).contiguous(),), (weight_VD,))
    loss = WordKDLoss(targets_M, 0.1, 0.5, divergence("kl"), teacher)
    assert loss.with_kernels(triton_kernels) is None
    found, _ = projected_loss(features_MD, weight_VD, loss)
    monkeypatch.setattr(fused, "kernels", lambda _device, _type: None)
    expected, _ = projected_loss(features_MD, weight_VD, loss)
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize(
    "settings",
    [
        {"divergence": divergence("js")},
        {"divergence": divergence("reverse_kl")},
        {"divergence": divergence("skewed_kl")},
        {"ranking": 2},
        {"mutual_information": 0.1, "log_marginal_V": torch.zeros(5)},
        {"min_confidence": 0.1},
        {"max_entropy": 1.0},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_losses_without_a_kernel_keep_the_pytorch_path(settings: dict[str, Any]) -> None:
    teacher = WholeDistribution((torch.zeros(1, 2),), (torch.zeros(5, 2),))
    targets_M = torch.zeros(1, dtype=torch.int64)
    loss = WordKDLoss(targets_M, 0.1, 0.5, **{"divergence": divergence("kl"), "teacher": teacher, **settings})
    assert loss.with_kernels(triton_kernels) is None
    two = WholeDistribution((torch.zeros(1, 2),) * 2, (torch.zeros(5, 2),) * 2)
    assert WordKDLoss(targets_M, 0.1, 0.5, divergence("kl"), two).with_kernels(triton_kernels) is None


# --------------------------------------------------------------------------------------------------------------- CTC


@dataclass(frozen=True)
class CTCBatch:
    """Log-probabilities of the blank and of the target tokens (float32 [B, L, K]), targets [B, T] and lengths [B]."""

    log_probs_BLK: Tensor
    tokens_BT: Tensor
    lengths_B: Tensor
    tgt_lengths_B: Tensor

    @property
    def lengths(self) -> dict[str, Tensor]:
        return {"lengths_B": self.lengths_B, "tgt_lengths_B": self.tgt_lengths_B}


def ctc_batch(batch: int, length: int, num_tokens: int, *, vocab_size: int = 3, even: bool = False) -> CTCBatch:
    """Return random sentences; the first has full length, some of the others may have no alignment.

    Args:
        vocab_size: number of different tokens; a small number makes repeated tokens.
        even: give all log-probabilities one of two values, so that many paths are equally probable.
    """
    generator = torch.Generator().manual_seed(length)
    log_probs_BLK = torch.randn(batch, length, 1 + vocab_size, generator=generator).log_softmax(2)
    if even:
        log_probs_BLK = torch.randint(-3, -1, log_probs_BLK.shape, generator=generator).float()
    tokens_BT = torch.randint(vocab_size, (batch, num_tokens), generator=generator)
    lengths_B = torch.randint(1, length + 1, (batch,), generator=generator)
    tgt_lengths_B = torch.randint(1, num_tokens + 1, (batch,), generator=generator)
    lengths_B[0], tgt_lengths_B[0] = length, num_tokens
    symbols_BK = torch.cat([torch.zeros(batch, 1, dtype=torch.int64), tokens_BT + 1], dim=1)
    log_probs_BLK = log_probs_BLK.gather(2, symbols_BK[:, None].expand(-1, length, -1))
    return CTCBatch(*(each.to(DEVICE) for each in (log_probs_BLK, tokens_BT, lengths_B, tgt_lengths_B)))


CTC_SHAPES = [(3, 1, 1), (3, 7, 1), (4, 1, 5), (6, 9, 4), (5, 20, 7), (5, 24, 15), (4, 33, 16), (2, 12, 300)]


@pytest.mark.parametrize(("batch", "length", "num_tokens"), CTC_SHAPES)
@pytest.mark.parametrize("vocab_size", [1, 3, 50])
def test_forward_variables_are_those_of_the_recursion(
    batch: int, length: int, num_tokens: int, vocab_size: int
) -> None:
    inputs = ctc_batch(batch, length, num_tokens, vocab_size=vocab_size)
    found_BLS = triton_kernels.ctc_variables(inputs.log_probs_BLK, inputs.tokens_BT)
    assert found_BLS.dtype == torch.float32
    expected_BLS = ctc._recursive_variables(inputs.log_probs_BLK.double(), inputs.tokens_BT)
    torch.testing.assert_close(found_BLS.double(), expected_BLS, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch", "length", "num_tokens"), CTC_SHAPES)
@pytest.mark.parametrize("vocab_size", [1, 3, 50])
@pytest.mark.parametrize("even", [False, True])
def test_the_best_alignment_is_that_of_the_recursion(
    batch: int, length: int, num_tokens: int, vocab_size: int, even: bool
) -> None:
    inputs = ctc_batch(batch, length, num_tokens, vocab_size=vocab_size, even=even)
    arguments = inputs.tokens_BT, inputs.lengths_B, inputs.tgt_lengths_B
    found_BL = triton_kernels.ctc_alignment(inputs.log_probs_BLK, *arguments)
    assert torch.equal(found_BL, ctc._recursive_alignment(inputs.log_probs_BLK, *arguments))


@pytest.mark.parametrize(("batch", "length", "num_tokens"), CTC_SHAPES)
@pytest.mark.parametrize("vocab_size", [1, 3, 50])
def test_shares_of_the_paths_are_those_of_the_recursion(
    batch: int, length: int, num_tokens: int, vocab_size: int
) -> None:
    """Values in the padding are not numbers."""
    inputs = ctc_batch(batch, length, num_tokens, vocab_size=vocab_size)
    arguments = inputs.tokens_BT, inputs.lengths_B, inputs.tgt_lengths_B
    expected = ctc._shares_of_both_directions(inputs.log_probs_BLK.double(), *arguments)
    places_L, symbols_K = (torch.arange(size, device=DEVICE) for size in inputs.log_probs_BLK.shape[1:])
    padding_BL = places_L >= inputs.lengths_B[:, None]
    padding_BK = symbols_K > inputs.tgt_lengths_B[:, None]
    log_probs_BLK = inputs.log_probs_BLK.masked_fill(padding_BL[:, :, None] | padding_BK[:, None], float("nan"))
    variables_BLS = triton_kernels.ctc_variables(log_probs_BLK, inputs.tokens_BT)
    totals_B, shares_BLS = triton_kernels.ctc_shares(log_probs_BLK, *arguments, variables_BLS)
    torch.testing.assert_close(totals_B.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shares_BLS.double(), expected[1], rtol=1e-4, atol=1e-5)


@pytest.fixture
def with_ctc_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let CTC use the kernels on the device of these tests."""
    monkeypatch.setattr(fused, "ctc_kernels", lambda _device, _type: triton_kernels)


@pytest.mark.usefixtures("with_ctc_kernels")
@pytest.mark.parametrize("length", [1, 3, 5])
def test_ctc_of_every_small_target_is_the_sum_over_its_paths(length: int) -> None:
    """Some targets have no alignment; the last position is padding, and so are tokens of the shorter targets."""
    targets = [target for size in (1, 2, 3) for target in itertools.product(range(3), repeat=size)]
    generator = torch.Generator().manual_seed(length)
    log_probs_BLV = torch.randn(len(targets), length + 1, 4, generator=generator).log_softmax(2)
    log_probs_BLV[:, length] = float("nan")
    tokens_BT = torch.tensor([[*target, 0, 0][:3] for target in targets])
    match_BLT = log_probs_BLV.gather(2, tokens_BT[:, None].expand(-1, length + 1, -1))
    lengths = {
        "lengths_B": torch.full((len(targets),), length, device=DEVICE),
        "tgt_lengths_B": torch.tensor([len(target) for target in targets], device=DEVICE),
    }
    arguments = log_probs_BLV[:, :, 3].to(DEVICE), match_BLT.to(DEVICE), tokens_BT.to(DEVICE)
    found = ctc.ctc_log_likelihood(*arguments, **lengths).tolist()
    states = ctc.ctc_best_alignment(*arguments, **lengths).tolist()
    for target, own, value, path in zip(targets, log_probs_BLV[:, :length].double(), found, states, strict=True):
        assert value == pytest.approx(oracle.ctc_log_likelihood(own.numpy(), target, 3), rel=1e-5)
        best = oracle.ctc_best_path(own.numpy(), target, 3)
        if math.isinf(best):
            assert path == [0] * (length + 1)
            continue
        assert path.pop() == 0
        symbols = [target[(state - 1) // 2] if state % 2 else 3 for state in path]
        assert oracle.ctc_collapse(symbols, 3) == target
        assert sum(float(own[place, symbol]) for place, symbol in enumerate(symbols)) == pytest.approx(best, rel=1e-5)


@pytest.mark.usefixtures("with_ctc_kernels")
def test_the_gradient_of_ctc_is_that_of_float64() -> None:
    inputs = ctc_batch(6, 25, 9, vocab_size=5)

    def gradient(log_probs_BLK: Tensor) -> tuple[Tensor, Tensor]:
        log_probs_BLK = log_probs_BLK.requires_grad_()
        blank_BL, match_BLT = log_probs_BLK[:, :, 0], log_probs_BLK[:, :, 1:]
        found_B = ctc.ctc_log_likelihood(blank_BL, match_BLT, inputs.tokens_BT, **inputs.lengths)
        return found_B.detach().double(), torch.autograd.grad(found_B.sum(), log_probs_BLK)[0].double()

    found = gradient(inputs.log_probs_BLK.clone())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "ctc_kernels", lambda _device, _type: None)
        expected = gradient(inputs.log_probs_BLK.double())
    assert torch.isfinite(expected[0]).any()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_log_probability_that_is_not_a_number_reaches_the_forward_variables() -> None:
    inputs = ctc_batch(2, 6, 2)
    inputs.log_probs_BLK[1, 3] = float("nan")
    variables_BLS = triton_kernels.ctc_variables(inputs.log_probs_BLK, inputs.tokens_BT)
    assert variables_BLS[:, 5, 3:].isnan().tolist() == [[False] * 2, [True] * 2]


def test_the_trial_of_ctc_passes_and_finds_scores_that_are_not_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    fused._try_ctc(triton_kernels, DEVICE, num_tokens=70)
    correct = triton_kernels.ctc_variables

    def without_exchange(log_probs_BLK: Tensor, tokens_BT: Tensor) -> Tensor:
        variables_BLS = correct(log_probs_BLK, tokens_BT)
        variables_BLS[:, 40:] = -INFINITY  # as if token 40 had not seen token 39
        return variables_BLS

    monkeypatch.setattr(triton_kernels, "ctc_variables", without_exchange)
    with pytest.raises(AssertionError):
        fused._try_ctc(triton_kernels, DEVICE, num_tokens=70)


def test_no_sentence_has_no_alignment() -> None:
    inputs = ctc_batch(1, 5, 2)
    arguments = (inputs.log_probs_BLK[:0], inputs.tokens_BT[:0])
    lengths = (inputs.lengths_B[:0], inputs.tgt_lengths_B[:0])
    variables_BLS = triton_kernels.ctc_variables(*arguments)
    assert variables_BLS.shape == (0, 5, 5)
    assert triton_kernels.ctc_shares(*arguments, *lengths, variables_BLS)[1].shape == (0, 5, 5)
    assert triton_kernels.ctc_alignment(*arguments, *lengths).shape == (0, 5)


# ------------------------------------------------------------------------------------------------------- compilation


def compile_for(kernel: Any, capability: int, types: Mapping[str, str], constants: Mapping[str, Any]) -> str:
    """Compile a kernel for an NVIDIA GPU, which need not be present, and return its PTX code."""
    program = f"""
import sys, json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kdmt.losses import triton_kernels
types, constants = json.loads(sys.argv[2]), json.loads(sys.argv[3])
signature = {{**types, **dict.fromkeys(constants, "constexpr")}}
source = ASTSource(fn=getattr(triton_kernels, sys.argv[1]), signature=signature, constexprs=constants)
print(triton.compile(source, target=GPUTarget("cuda", {capability}, 32), options={{"num_warps": 8}}).asm["ptx"])
"""
    arguments = [kernel, json.dumps(types), json.dumps(constants)]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(triton_kernels.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


POINTERS = {"logits_ptr": "*bf16", "teacher_ptr": "*bf16", "targets_ptr": "*i64", "ids_ptr": "*i64"}
WHOLE_NUMBERS = {"stride", "teacher_stride", "ids_stride", "log_probs_stride", "num_rows", "num_columns"}


@pytest.mark.parametrize("name", ["_cross_entropy_kernel", "_whole_distribution_kernel", "_best_tokens_kernel"])
@pytest.mark.parametrize("flag", [False, True])
def test_kernels_compile_for_gpus(name: str, flag: bool) -> None:
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for argument in inspect.signature(getattr(triton_kernels, name).fn).parameters:
        if argument.isupper():
            constants[argument] = {"BLOCK": 4096, "NUM_BEST": 5, "BEST": 8}.get(argument, flag)
        elif argument.endswith("_ptr"):
            types[argument] = POINTERS.get(argument, "*fp32")
        else:
            types[argument] = "i32" if argument in WHOLE_NUMBERS else "fp32"
    constants["HAS_GRADIENT"] = True
    for argument, used in (("weights_ptr", "HAS_WEIGHTS"), ("taught_ptr", "HAS_TAUGHT")):
        if argument in types and not constants[used]:
            del types[argument]
            constants[argument] = None
    assert ".target sm_90" in compile_for(name, 90, types, constants)


@pytest.mark.parametrize("name", ["_ctc_variables_kernel", "_ctc_shares_kernel", "_ctc_alignment_kernel"])
@pytest.mark.parametrize("block", [2, 512])
def test_kernels_of_ctc_compile_for_gpus(name: str, block: int) -> None:
    floats = dict.fromkeys(("log_probs_ptr", "variables_ptr", "scores_ptr", "totals_ptr", "shares_ptr"), "*fp32")
    types = {
        argument: {**floats, "steps_ptr": "*i8"}.get(argument, "*i64") if argument.endswith("_ptr") else "i32"
        for argument in inspect.signature(getattr(triton_kernels, name).fn).parameters
        if argument != "BLOCK"
    }
    assert ".target sm_90" in compile_for(name, 90, types, {"BLOCK": block})
