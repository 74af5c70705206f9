"""Tests of word-level distillation in chunks against the plain formula on whole matrices, with autograd."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from formulas import divergence_by_formula
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from kdmt.corpus.knowledge_cache import Shape, fill_records
from kdmt.losses.cross_entropy import label_smoothed_cross_entropy, projected_loss
from kdmt.losses.divergences import DIVERGENCES, Distribution, divergence
from kdmt.losses.word_kd import BestTokens, TeacherTokens, WholeDistribution, WordKDLoss

M, V, D = 23, 17, 6
EPSILON = 0.1


def tensors(seed: int = 1, *, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "features": draw(M, D).requires_grad_(),
        "weight": draw(V, D).requires_grad_(),
        "teacher_features": draw(M, 2 * D),
        "teacher_weight": draw(V, 2 * D).mul_(0.5),
        "targets": torch.randint(V, (M,), generator=generator),
    }


def whole(given: dict[str, Tensor], temperature: float = 1.0) -> WholeDistribution:
    return WholeDistribution((given["teacher_features"],), (given["teacher_weight"],), temperature)


def best(given: dict[str, Tensor], k: int, temperature: float = 1.0) -> BestTokens:
    log_p = whole(given, temperature).distribution(slice(None)).logs
    return groups_of(log_p, k)


def groups_of(log_p: Tensor, k: int) -> BestTokens:
    """Return the cache entries of whole distributions: the top-k log-probabilities, and the sum of all others."""
    log_probs, ids = log_p.topk(k, dim=1)
    rest = log_p.scatter(1, ids, -math.inf).logsumexp(1, keepdim=True)
    return BestTokens(ids, torch.cat([log_probs, rest], dim=1))


def plain(given: dict[str, Tensor], settings: dict[str, Any], k: int | None) -> dict[str, Tensor]:
    """Return the losses by the formulas on whole matrices; with `k`, over the top-k tokens and the rest."""
    temperature, alpha = settings["temperature"], settings["alpha"]
    logits = given["features"] @ given["weight"].t()
    ce, nll = cross_entropies(logits, given["targets"])
    teacher_logits = given["teacher_features"] @ given["teacher_weight"].t()
    log_p, log_q = ((each / temperature).log_softmax(1) for each in (teacher_logits, logits))
    p = log_p.exp()
    taught = p.amax(1) >= settings.get("min_confidence", 0.0)
    if k is not None:
        ids = log_p.topk(k, dim=1).indices
        rest = torch.ones_like(p).scatter(1, ids, 0.0)
        log_p, log_q = (
            torch.cat([each.gather(1, ids), (each.exp() * rest).sum(1, keepdim=True).log()], 1)
            for each in (log_p, log_q)
        )
    groups_entropy = -(log_p.exp() * log_p).sum(1)
    taught &= groups_entropy <= settings.get("max_entropy", math.inf)
    if settings.get("taught_M") is not None:
        taught &= settings["taught_M"]
    kd = (divergence_by_formula(settings["divergence"], log_p, log_q) * taught).sum()
    kd = kd * divergence(settings["divergence"]).scale(temperature)
    mi = torch.zeros(())
    if settings.get("mutual_information"):
        hard_log_q = logits.log_softmax(1)
        mi = (hard_log_q.exp() * (hard_log_q - settings["log_marginal_V"])).sum()
    if settings.get("ranking"):
        kd = kd + (ranking_by_loops(given, settings["ranking"], k) * taught).sum()
    shares = 1 - alpha * taught.double() if settings.get("has_references", True) else torch.zeros(M)
    total = (shares * ce).sum() + alpha * kd + settings.get("mutual_information", 0.0) * mi
    return {"total": total, "nll": nll.sum(), "kd": kd, "mi": mi, "taught": taught.sum()}


def cross_entropies(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of each token, with and without label smoothing."""
    each = [label_smoothed_cross_entropy(logits[m : m + 1], targets[m : m + 1], epsilon=EPSILON) for m in range(M)]
    smoothed, nll = zip(*each, strict=True)
    return torch.stack(smoothed), torch.stack(nll)


def ranking_by_loops(given: dict[str, Tensor], best: int, k: int | None) -> Tensor:
    """Return the hierarchical ranking loss (Zhang et al. 2023) by loops over pairs.

    With `k`, only the teacher's top-k probabilities are known: all other tokens count as less probable.
    """
    q = (given["features"] @ given["weight"].t()).softmax(1)
    p = (given["teacher_features"] @ given["teacher_weight"].t()).softmax(1)
    if k is not None:
        p = torch.zeros_like(p).scatter(1, p.topk(k, dim=1).indices, p.topk(k, dim=1).values)
    rows = []
    for row in range(M):
        teacher, student = p[row].topk(best).indices.tolist(), q[row].topk(best).indices.tolist()
        value = torch.zeros((), dtype=q.dtype)
        for t in teacher:
            value = value + (q[row, t] - q[row, teacher[0]]).clamp_min(0)
            for s in student:
                if p[row, t] > p[row, s]:
                    value = value + (q[row, s] - q[row, t]).clamp_min(0)
        rows.append(value)
    return torch.stack(rows)


def chunked(given: dict[str, Tensor], settings: dict[str, Any], k: int | None, chunk: int) -> tuple[Tensor, Tensor]:
    temperature = settings["temperature"]
    rest = {key: value for key, value in settings.items() if key != "divergence"}
    loss = WordKDLoss(
        targets_M=given["targets"],
        epsilon=EPSILON,
        divergence=divergence(settings["divergence"]),
        teacher=whole(given, temperature) if k is None else best(given, k, temperature),
        **rest,
    )
    return projected_loss(given["features"], given["weight"], loss, chunk=chunk)


def assert_equals_formula(settings: dict[str, Any], k: int | None, chunk: int = 5) -> None:
    given = tensors()
    expected = plain(given, settings, k)
    wanted = torch.autograd.grad(expected["total"], [given["features"], given["weight"]])
    total, parts = chunked(given, settings, k, chunk)
    found = torch.autograd.grad(total, [given["features"], given["weight"]])
    torch.testing.assert_close(total, expected["total"], rtol=1e-11, atol=1e-11)
    reported = [float(expected[name].detach()) for name in ("nll", "kd", "mi", "taught")]
    torch.testing.assert_close(parts, torch.tensor(reported, dtype=torch.float64), rtol=1e-11, atol=1e-11)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_whole_distribution(name: str, alpha: float, temperature: float) -> None:
    assert_equals_formula({"divergence": name, "alpha": alpha, "temperature": temperature}, None)


@pytest.mark.parametrize("k", [1, 4, V - 1])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", [name for name in DIVERGENCES if divergence(name).of_groups])
def test_best_tokens(name: str, temperature: float, k: int) -> None:
    assert_equals_formula({"divergence": name, "alpha": 0.5, "temperature": temperature}, k)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergence_with_the_slope_of_autograd(name: str, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIVERGENCES, name, replace(DIVERGENCES[name], fast=None))
    settings = {"divergence": name, "alpha": 0.5, "temperature": temperature}
    assert_equals_formula(settings, None)
    if DIVERGENCES[name].of_groups:
        assert_equals_formula({**settings, "ranking": 3, "min_confidence": 0.1}, 4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [None, 4])
def test_mutual_information(k: int | None, temperature: float) -> None:
    log_marginal = whole(tensors()).marginal(M, chunk=4).log()
    settings = {"divergence": "kl", "alpha": 0.4, "temperature": temperature}
    assert_equals_formula({**settings, "mutual_information": 0.3, "log_marginal_V": log_marginal}, k)
    assert_equals_formula({**settings, "mutual_information": -0.3, "log_marginal_V": log_marginal}, k)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [None, 4])
def test_top1_ranking(k: int | None, temperature: float) -> None:
    """The temperature does not change the teacher's order, and q is computed at temperature 1."""
    assert_equals_formula(
        {"divergence": "kl", "alpha": 0.5, "temperature": temperature, "ranking": 4, "min_confidence": 0.1}, k
    )


def test_marginal_equals_mean_over_batch() -> None:
    given = tensors()
    expected = (given["teacher_features"] @ given["teacher_weight"].t()).softmax(1).mean(0)
    torch.testing.assert_close(whole(given, 3.0).marginal(M, chunk=4), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize(
    "chosen", [{"taught_M": torch.arange(M) % 3 == 0}, {"min_confidence": 0.3}, {"max_entropy": 1.2}]
)
def test_distillation_of_selected_tokens(chosen: dict[str, Any], k: int | None) -> None:
    settings = {"divergence": "kl", "alpha": 0.5, "temperature": 1.0, **chosen}
    taught = int(plain(tensors(), settings, k)["taught"])
    assert 0 < taught < M
    assert_equals_formula(settings, k)


@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_no_cross_entropy_without_references(k: int | None, alpha: float) -> None:
    settings = {"divergence": "js", "alpha": alpha, "temperature": 1.0, "has_references": False}
    assert_equals_formula(settings, k)
    assert_equals_formula({**settings, "taught_M": torch.arange(M) % 3 == 0}, k)


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if divergence(name).of_groups])
def test_cache_of_all_tokens_gives_the_whole_divergence(name: str) -> None:
    settings = {"divergence": name, "alpha": 0.5, "temperature": 1.0}
    given = tensors()
    full, whole_parts = chunked(given, settings, None, 7)
    cached, cached_parts = chunked(given, settings, V, 7)
    torch.testing.assert_close(cached, full, rtol=1e-11, atol=0)
    torch.testing.assert_close(cached_parts, whole_parts, rtol=1e-11, atol=1e-11)
    for found, wanted in zip(*(torch.autograd.grad(each, given["features"]) for each in (cached, full)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "skewed_kl", "skewed_reverse_kl", "js", "tvd"])
def test_divergence_does_not_decrease_with_k(name: str) -> None:
    given = tensors()
    settings = {"divergence": name, "alpha": 1.0, "temperature": 1.0}
    values = [float(chunked(given, settings, k, M)[1][1]) for k in (1, 2, 4, 8, V)]
    assert values == sorted(values)


def test_float32_result_does_not_depend_on_chunks() -> None:
    given = tensors(dtype=torch.float32)
    settings = {"divergence": "js", "alpha": 0.5, "temperature": 2.0}
    for k in (None, 4):
        results = []
        for chunk in (1, 8, M):
            total, _ = chunked(given, settings, k, chunk)
            results.append((total.detach(), *torch.autograd.grad(total, [given["features"], given["weight"]])))
        for other in results[1:]:
            for found, wanted in zip(other, results[0], strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [None, 4])
def test_gradcheck(k: int | None) -> None:
    given = tensors()
    settings = {"divergence": "reverse_kl", "alpha": 0.7, "temperature": 1.5}

    def loss(features: Tensor, weight: Tensor) -> Tensor:
        return chunked({**given, "features": features, "weight": weight}, settings, k, 8)[0]

    assert torch.autograd.gradcheck(loss, (given["features"], given["weight"]))


def test_several_teachers_are_averaged_in_probability() -> None:
    given, other = tensors(), tensors(seed=2)
    both = WholeDistribution(
        (given["teacher_features"], other["teacher_features"]), (given["teacher_weight"], other["teacher_weight"]), 1.5
    )
    expected = (
        whole(given, 1.5).distribution(slice(None)).probs + whole(other, 1.5).distribution(slice(None)).probs
    ) / 2
    torch.testing.assert_close(both.distribution(slice(3, 9)).probs, expected[3:9], rtol=1e-12, atol=0)


def test_high_temperature_gives_squared_distance_of_centred_logits() -> None:
    """T^2 KL(p_T || q_T) -> sum_v (z_v - t_v)^2 / (2 V), both centred (Hinton et al. 2015, section 2.1)."""
    given = tensors()
    logits, teacher = given["features"] @ given["weight"].t(), given["teacher_features"] @ given["teacher_weight"].t()
    difference = logits - teacher
    expected = ((difference - difference.mean(1, keepdim=True)) ** 2).sum() / (2 * V)
    settings = {"divergence": "kl", "alpha": 1.0, "temperature": 1e4}
    torch.testing.assert_close(chunked(given, settings, None, 5)[1][1], expected.detach(), rtol=1e-3, atol=0)


def test_gradient_of_overconfident_student_is_finite() -> None:
    """The probability of the rest is 0 in float32; there must be no division by it."""
    features, weight = torch.full((1, 1), 200.0, requires_grad=True), torch.tensor([[1.0], [-1.0], [-1.0], [-1.0]])
    teacher = BestTokens(torch.tensor([[0, 1]]), torch.tensor([[0.4, 0.3, 0.3]]).log())
    for name in (name for name in DIVERGENCES if DIVERGENCES[name].of_groups):
        loss = WordKDLoss(
            targets_M=torch.tensor([2]), epsilon=0.0, alpha=0.5, divergence=divergence(name), teacher=teacher
        )
        total, _ = projected_loss(features, weight, loss)
        (gradient,) = torch.autograd.grad(total, features)
        assert torch.isfinite(total), name
        assert torch.isfinite(gradient).all(), name


@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_token_of_weight_n_equals_n_tokens(k: int | None, temperature: float) -> None:
    given = tensors()
    times = torch.arange(M) % 3
    repeated = {
        name: each
        if name.endswith("weight")
        else each.detach().repeat_interleave(times, 0).requires_grad_(name == "features")
        for name, each in given.items()
    }
    settings = {"divergence": "js", "alpha": 0.4, "temperature": temperature, "ranking": 2, "mutual_information": 0.2}
    settings["log_marginal_V"] = whole(given).marginal(M, chunk=M).log()
    expected, expected_parts = chunked(repeated, settings, k, 7)
    total, parts = chunked(given, {**settings, "weights_M": times.double()}, k, 7)
    torch.testing.assert_close(total, expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(parts, expected_parts, rtol=1e-11, atol=1e-12)
    wanted = torch.autograd.grad(expected, [repeated["features"], repeated["weight"]])
    found = torch.autograd.grad(total, [given["features"], given["weight"]])
    index = torch.arange(M).repeat_interleave(times)
    by_token = torch.zeros_like(found[0]).index_add_(0, index, wanted[0])
    torch.testing.assert_close(found[0], by_token, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "skewed_kl", "skewed_reverse_kl", "js", "tvd"])
@given(seed=st.integers(0, 10_000), k=st.integers(1, V - 1), peaks=st.tuples(st.floats(0.5, 60), st.floats(0.5, 60)))
@hypothesis_settings(max_examples=30, deadline=None)
def test_divergence_from_float16_cache_is_at_most_the_whole(
    name: str, seed: int, k: int, peaks: tuple[float, float]
) -> None:
    """The data-processing inequality holds after rounding to float16, also for teachers that are nearly certain."""
    generator = torch.Generator().manual_seed(seed)
    log_p, log_q = (
        (peak * torch.randn(5, V, generator=generator, dtype=torch.float64)).log_softmax(1) for peak in peaks
    )
    best = groups_of(log_p, k)
    shape = Shape(k=k, vocab_size=V, temperatures=(1.0,), value_type="float16", block_size=1)
    records = fill_records(shape, best.ids_MK.numpy(), best.log_probs_MG.numpy()[None])
    read = torch.from_numpy(records["log_probs"][:, 0].astype(np.float64)).log_softmax(1)
    whole_value, _ = divergence(name).compare(Distribution.of_logs(log_p), Distribution.of_logs(log_q))
    pull = BestTokens(best.ids_MK, read).pull(slice(None), divergence(name), Distribution.of_logs(log_q.clone()))
    assert bool((pull.value_C <= 1.02 * whole_value + 0.02).all())  # float16 has a precision of three digits


def test_underflow_of_the_students_rest() -> None:
    """The exponentials of the other logits are 0 in float32; the divergence still equals that in float64."""
    logits = torch.tensor([[200.0, 60.0, 50.0, 40.0, 30.0]])
    teacher = groups_of(torch.tensor([[0.5, 0.3, 0.15, 0.04, 0.01]], dtype=torch.float64).log(), 1)
    values = []
    for dtype in (torch.float32, torch.float64):
        cached = BestTokens(teacher.ids_MK, teacher.log_probs_MG.to(dtype))
        pull = cached.pull(slice(None), divergence("kl"), Distribution.of_logits(logits.to(dtype).clone()))
        values.append(float(pull.value_C))
    assert values[0] == pytest.approx(values[1], rel=1e-6) == pytest.approx(69.3, abs=0.5)


@pytest.mark.parametrize("cached", [False, True])
def test_loss_of_empty_batch_is_zero(cached: bool) -> None:
    features, weight = torch.zeros(0, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    teacher: TeacherTokens = WholeDistribution((torch.zeros(0, 5),), (torch.randn(7, 5),))
    if cached:
        teacher = BestTokens(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 4))
    loss, parts = projected_loss(features, weight, WordKDLoss(none, 0.1, 0.5, divergence("kl"), teacher))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert parts.tolist() == [0.0] * 4
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) == 0.0
