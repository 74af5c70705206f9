"""Each divergence by its formula, its slope by autograd, and the data-processing inequality as a property."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdmt.losses.divergences import LOG_ZERO, NAMES, divergence

BETAS = (0.1, 0.5, 0.9)
CASES = [(name, 0.5) for name in NAMES] + [("js", 0.1), ("js", 0.9)]


def random_log_probs(*shape: int, seed: int, peak: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (peak * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


def by_hand(name: str, p: list[float], q: list[float], beta: float) -> float:
    """The textbook sum over one distribution, in plain Python."""

    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    m = [beta * x + (1 - beta) * y for x, y in zip(p, q, strict=True)]
    return {
        "kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "js": lambda: beta * kl(p, m) + (1 - beta) * kl(q, m),
        "tvd": lambda: sum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2,
        "cross_entropy": lambda: -sum(x * math.log(y) for x, y in zip(p, q, strict=True)),
        "squared_error": lambda: sum((x - y) ** 2 for x, y in zip(p, q, strict=True)),
    }[name]()


@pytest.mark.parametrize(("name", "beta"), CASES)
def test_is_its_formula(name: str, beta: float) -> None:
    log_p, log_q = random_log_probs(20, 7, seed=1), random_log_probs(20, 7, seed=2)
    found = divergence(name, beta=beta).value(log_p, log_q)
    expected = [by_hand(name, p, q, beta) for p, q in zip(log_p.exp().tolist(), log_q.exp().tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_of_a_distribution_with_itself(name: str) -> None:
    log_p = random_log_probs(20, 7, seed=3)
    entropy = -(log_p.exp() * log_p).sum(-1)
    expected = entropy if name == "cross_entropy" else torch.zeros_like(entropy)
    torch.testing.assert_close(divergence(name).value(log_p, log_p.clone()), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["kl", "cross_entropy"])
def test_a_teacher_that_is_certain_gives_cross_entropy(name: str) -> None:
    log_q = random_log_probs(5, 7, seed=4)
    labels = torch.tensor([0, 3, 6, 2, 2])
    log_p = torch.full_like(log_q, LOG_ZERO).scatter_(1, labels[:, None], 0.0)
    expected = torch.nn.functional.nll_loss(log_q, labels, reduction="none")
    torch.testing.assert_close(divergence(name).value(log_p, log_q), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "beta"), CASES)
def test_slope_is_the_derivative_by_log_q(name: str, beta: float) -> None:
    chosen = divergence(name, beta=beta)
    log_p, log_q = random_log_probs(20, 7, seed=5), random_log_probs(20, 7, seed=6)
    logits = log_q.clone().requires_grad_()
    (expected,) = torch.autograd.grad(chosen.value(log_p, logits.log_softmax(-1)).sum(), logits)
    slope = chosen.slope(log_p, log_q)
    torch.testing.assert_close(slope - log_q.exp() * slope.sum(-1, keepdim=True), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("name", "beta"), CASES)
def test_gradcheck(name: str, beta: float) -> None:
    chosen = divergence(name, beta=beta)
    log_p = random_log_probs(3, 5, seed=7)
    logits = random_log_probs(3, 5, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: chosen.value(log_p, z.log_softmax(-1)), (logits,))


@given(
    st.integers(0, 10_000), st.integers(2, 12), st.sampled_from([case for case in CASES if case[0] != "squared_error"])
)
@settings(max_examples=200, deadline=None)
def test_groups_never_exceed_tokens(seed: int, size: int, case: tuple[str, float]) -> None:
    """Data-processing inequality: what is seen of p and q through groups of tokens is not further apart."""
    name, beta = case
    chosen = divergence(name, beta=beta)
    log_p, log_q = (random_log_probs(size, seed=seed + offset, peak=4.0) for offset in (0, 20_000))
    groups = torch.randint(3, (size,), generator=torch.Generator().manual_seed(seed))
    summed = [torch.zeros(3, dtype=torch.float64).index_add_(0, groups, each.exp()).log() for each in (log_p, log_q)]
    coarse, fine = (
        chosen.value(each.clamp(LOG_ZERO), other.clamp(LOG_ZERO)) for each, other in (summed, (log_p, log_q))
    )
    if name == "cross_entropy":  # the bound is the divergence's: take the teacher's own entropy off both
        coarse, fine = (
            value - chosen.value(each.clamp(LOG_ZERO), each.clamp(LOG_ZERO))
            for value, each in ((coarse, summed[0]), (fine, log_p))
        )
    assert float(coarse) <= float(fine) + 1e-12
    assert chosen.of_groups


def test_bounds() -> None:
    log_p, log_q = random_log_probs(200, 4, seed=9, peak=8.0), random_log_probs(200, 4, seed=10, peak=8.0)
    assert float(divergence("js").value(log_p, log_q).max()) <= math.log(2)
    assert float(divergence("tvd").value(log_p, log_q).max()) <= 1.0
    assert not divergence("squared_error").of_groups


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        divergence("js", beta=beta)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown divergence 'chi'.*kl, reverse_kl"):
        divergence("chi")
