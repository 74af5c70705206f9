"""Tests of divergences against their formulas, of slopes against autograd, and of the data-processing inequality."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdmt.config import WordKD
from kdmt.losses import kl_divergence
from kdmt.losses.divergences import DIVERGENCES, LOG_ZERO, Distribution, compare_by_autograd, divergence

# the name of a divergence and the number that it takes: beta of js, skew of the skewed divergences
CASES = [(name, 0.5) for name in DIVERGENCES]
CASES += [(name, number) for name in ("js", "skewed_kl", "skewed_reverse_kl") for number in (0.1, 0.25, 0.9)]


def random_log_probs(*shape: int, seed: int, peak: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (peak * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


def value(name: str, log_p: Tensor, log_q: Tensor, number: float = 0.5) -> Tensor:
    return compare(name, log_p, log_q, number)[0]


def compare(name: str, log_p: Tensor, log_q: Tensor, number: float) -> tuple[Tensor, Tensor]:
    """Return the value and the slope."""
    compared = divergence(name, beta=number, skew=number)
    found, slope = compared.compare(Distribution.of_logs(log_p), Distribution.of_logs(log_q))
    values = slope.values * slope.factor
    torch.testing.assert_close(slope.total, values.sum(-1, keepdim=True), rtol=1e-10, atol=1e-13)
    return found, values


def by_hand(name: str, p: list[float], q: list[float], number: float) -> float:
    """Return the divergence of one pair of distributions by the textbook formula, in plain Python."""

    def mixed(a: list[float], b: list[float]) -> list[float]:
        return [number * x + (1 - number) * y for x, y in zip(a, b, strict=True)]

    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    m = mixed(p, q)
    return {
        "kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "skewed_kl": lambda: kl(p, m),
        "skewed_reverse_kl": lambda: kl(q, mixed(q, p)),
        "js": lambda: number * kl(p, m) + (1 - number) * kl(q, m),
        "tvd": lambda: sum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2,
        "cross_entropy": lambda: -sum(x * math.log(y) for x, y in zip(p, q, strict=True)),
        "squared_error": lambda: sum((x - y) ** 2 for x, y in zip(p, q, strict=True)),
    }[name]()


@pytest.mark.parametrize(("name", "number"), CASES)
def test_value_equals_formula(name: str, number: float) -> None:
    log_p, log_q = random_log_probs(20, 7, seed=1), random_log_probs(20, 7, seed=2)
    found = value(name, log_p, log_q, number)
    expected = [by_hand(name, p, q, number) for p, q in zip(log_p.exp().tolist(), log_q.exp().tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergence_from_itself_is_zero_or_entropy(name: str) -> None:
    log_p = random_log_probs(20, 7, seed=3)
    entropy = -(log_p.exp() * log_p).sum(-1)
    expected = entropy if name == "cross_entropy" else torch.zeros_like(entropy)
    torch.testing.assert_close(value(name, log_p, log_p.clone()), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["kl", "cross_entropy"])
def test_one_hot_teacher_gives_cross_entropy(name: str) -> None:
    log_q = random_log_probs(5, 7, seed=4)
    labels = torch.tensor([0, 3, 6, 2, 2])
    log_p = torch.full_like(log_q, LOG_ZERO).scatter_(1, labels[:, None], 0.0)
    expected = torch.nn.functional.nll_loss(log_q, labels, reduction="none")
    torch.testing.assert_close(value(name, log_p, log_q), expected, rtol=0, atol=1e-14)


class _Compared(torch.autograd.Function):
    """Divergence of logits whose gradient is computed from the slope."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_p: Tensor, name: str, number: float) -> Tensor:
        log_q = logits.log_softmax(-1)
        found, slope = compare(name, log_p, log_q, number)
        ctx.save_for_backward(slope - log_q.exp() * slope.sum(-1, keepdim=True))
        return found

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.saved_tensors[0] * upstream[..., None], None, None, None


@pytest.mark.parametrize(("name", "number"), CASES)
def test_gradcheck(name: str, number: float) -> None:
    log_p = random_log_probs(3, 5, seed=7)
    logits = random_log_probs(3, 5, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: _Compared.apply(z, log_p, name, number), (logits,))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_unnormalised_logits_with_preallocated_memory(name: str) -> None:
    logits = [3 * random_log_probs(4, 7, seed=seed) + 5 for seed in (5, 6)]
    expected, expected_slope = compare(name, *(each.log_softmax(-1) for each in logits), 0.5)
    p, q = (Distribution.of_logits(each.clone(), out=torch.empty_like(each)) for each in logits)
    found, slope = divergence(name, skew=0.5).compare(p, q, out=torch.full_like(logits[0], math.nan))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(slope.values * slope.factor, expected_slope, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(slope.total, expected_slope.sum(-1, keepdim=True), rtol=1e-11, atol=1e-14)


def test_distribution_of_logits() -> None:
    logits = random_log_probs(4, 7, seed=11) * 3 + 5
    found = Distribution.of_logits(logits.clone(), out=torch.empty_like(logits))
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(found.entropy(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.confidence(), logits.softmax(-1).amax(-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.logs, logits.log_softmax(-1), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.probs, logits.softmax(-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.entropy(), expected, rtol=1e-12, atol=0)


@given(
    st.integers(0, 10_000), st.integers(2, 12), st.sampled_from([case for case in CASES if case[0] != "squared_error"])
)
@settings(max_examples=60, deadline=None)
def test_divergence_of_groups_is_at_most_that_of_tokens(seed: int, size: int, case: tuple[str, float]) -> None:
    """Data-processing inequality: summing p and q over groups of tokens never increases the divergence."""
    name, number = case
    log_p, log_q = (random_log_probs(size, seed=seed + offset, peak=4.0) for offset in (0, 20_000))
    groups = torch.randint(3, (size,), generator=torch.Generator().manual_seed(seed))
    summed = [torch.zeros(3, dtype=torch.float64).index_add_(0, groups, each.exp()).log() for each in (log_p, log_q)]
    coarse, fine = (
        value(name, each.clamp(LOG_ZERO), other.clamp(LOG_ZERO), number) for each, other in (summed, (log_p, log_q))
    )
    if name == "cross_entropy":  # the bound holds for the divergence: subtract the teacher's entropy on both sides
        coarse, fine = (
            found - value(name, each.clamp(LOG_ZERO), each.clamp(LOG_ZERO), number)
            for found, each in ((coarse, summed[0]), (fine, log_p))
        )
    assert float(coarse) <= float(fine) + 1e-12
    assert divergence(name).of_groups


def test_bounds() -> None:
    log_p, log_q = random_log_probs(200, 4, seed=9, peak=8.0), random_log_probs(200, 4, seed=10, peak=8.0)
    assert float(value("js", log_p, log_q).max()) <= math.log(2)
    assert float(value("tvd", log_p, log_q).max()) <= 1.0
    assert not divergence("squared_error").of_groups


@pytest.mark.parametrize("number", [0.0, 1.0, -0.1])
def test_beta_or_skew_out_of_range_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        divergence("js", beta=number)
    for name in ("skewed_kl", "skewed_reverse_kl"):
        with pytest.raises(ValueError, match="skew"):
            divergence(name, skew=number)


@pytest.mark.parametrize("skew", [0.1, 0.5])
def test_skewed_divergences_of_distributions_without_a_common_token_are_minus_log_skew(skew: float) -> None:
    log_p, log_q = (torch.tensor([[a, b]]).log().clamp_min(LOG_ZERO) for a, b in ((1.0, 0.0), (0.0, 1.0)))
    for name in ("skewed_kl", "skewed_reverse_kl"):
        found, slope = compare(name, log_p, log_q, skew)
        assert float(found) == pytest.approx(-math.log(skew), rel=1e-6)
        assert torch.isfinite(slope).all()


# derivative with respect to the logit of the right token, times -1, at its probability under the student
SLOPES = {
    "kl": (0.799, 0.700, 0.200),
    "reverse_kl": (0.009, 0.383, 0.397),
    "js": (0.0033, 0.094, 0.073),
    "tvd": (0.001, 0.090, 0.239),
    "skewed_kl": (0.0088, 0.369, 0.214),
}


@pytest.mark.parametrize("name", SLOPES)
def test_slopes_at_the_right_token(name: str) -> None:
    """The teacher gives 0.8 to the right token, 0.1 to three others, 0.1 to all others; the student's are equal."""
    p = torch.full((1000,), 0.1 / 996, dtype=torch.float64)
    p[0], p[1:4] = 0.8, 0.1 / 3
    for probability, expected in zip((0.001, 0.1, 0.6), SLOPES[name], strict=True):
        q = torch.full((1000,), (1 - probability) / 999, dtype=torch.float64)
        q[0] = probability
        _, slope = divergence(name).compare(Distribution.of_logs(p.log()), Distribution.of_logs(q.log()))
        gradient = slope.values * slope.factor - q * slope.total
        assert -float(gradient[0]) == pytest.approx(expected, abs=5e-5 if expected < 0.01 else 5e-4)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown divergence 'chi'.*kl, reverse_kl"):
        divergence("chi")


@pytest.mark.parametrize(("name", "number"), CASES)
def test_slope_equals_autograd(name: str, number: float) -> None:
    log_p, log_q = random_log_probs(20, 7, seed=12), random_log_probs(20, 7, seed=13)
    found, found_slope = compare(name, log_p, log_q, number)
    function = divergence(name, beta=number, skew=number).function
    expected, slope = compare_by_autograd(function, Distribution.of_logs(log_p), Distribution.of_logs(log_q))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found_slope, slope.values, rtol=1e-11, atol=1e-14)


def test_settings_list_all_divergences() -> None:
    assert get_args(WordKD.model_fields["divergence"].annotation) == tuple(DIVERGENCES)


# ------------------------------------------------------------------------------------------------------ kl_divergence


def test_kl_divergence_equals_torch_over_masked_tokens() -> None:
    student, teacher = (torch.randn(4, 6, 9, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(6) < torch.tensor([6, 2, 0, 5])[:, None]
    loss_sum, count = kl_divergence(student, teacher, mask, temperature=2.0)
    log_q, log_p = ((each[mask] / 2.0).log_softmax(-1) for each in (student, teacher))
    expected = 4.0 * torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    torch.testing.assert_close(loss_sum, expected, rtol=1e-12, atol=0)
    assert int(count) == 13


def test_kl_divergence_gradcheck() -> None:
    student, teacher = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(lambda q: kl_divergence(q, teacher.detach(), mask, 1.7)[0], (student,))


def test_kl_divergence_of_forbidden_tokens_is_finite() -> None:
    """Both models have logits of -inf, as for tokens that are never generated."""
    student, teacher = torch.randn(2, 5, requires_grad=True), torch.randn(2, 5)
    forbidden = torch.tensor([True, False, False, False, True])
    loss_sum, _ = kl_divergence(
        student.masked_fill(forbidden, -math.inf), teacher.masked_fill(forbidden, -math.inf), torch.ones(2).bool()
    )
    loss_sum.backward()
    assert torch.isfinite(loss_sum)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
