"""Divergences between the distributions of a teacher (p) and a student (q) over the vocabulary.

`DIVERGENCES` names them. Each one is a plain function of log-probabilities,

    (log_p [..., V], log_q [..., V]) -> value [...]

and autograd gives its gradient. `kl`, `reverse_kl` and the others also have a hand-derived version, which passes over
the [chunk, V] matrices as few times as possible and reuses their memory. To add a divergence, write its function, name
it in `DIVERGENCES` and in `kdmt.choices`.

The last dimension is the vocabulary or a partition of it, in which case p and q are sums over the same groups of
tokens. For every divergence here except the squared error, the value over a partition never exceeds the value over the
vocabulary (data-processing inequality).

A slope is the derivative with respect to log q, taken as if the entries of log q were free. With
log q = log_softmax(z) the gradient with respect to the logits is

    d value / d z_v = slope_v - q_v sum_u slope_u

Shapes: ... any leading dimensions, V vocabulary or groups of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

LOG_ZERO = -1e4  # used for the logarithm of 0: its exponential is 0, and 0 times it is 0


def kl_divergence(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the summed KL divergence KL(teacher || student) of the tokens in `mask`, and their number.

        T^2 sum_v p_v (log p_v - log q_v),   p, q = softmax(logits / T)

    The factor T^2 keeps the size of the gradient at any temperature (Hinton et al. 2015, section 2).

    Args:
        student_logits: [..., V]; the gradient flows to them.
        teacher_logits: [..., V].
        mask: bool [...], True on real tokens.
        temperature: T, divides the logits.

    Returns:
        The sum in nats, a scalar, and the number of tokens, int64, a scalar.
    """
    log_p, log_q = (
        (each / temperature).log_softmax(-1).clamp_min(LOG_ZERO) for each in (teacher_logits, student_logits)
    )
    return temperature**2 * torch.where(mask, kl(log_p, log_q), 0.0).sum(), mask.sum()


# ------------------------------------------------------------------------------------------------------ plain functions


def cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return -sum p log q, the cross entropy with soft labels p (Hinton et al. 2015; Kim & Rush 2016, L_WORD-KD)."""
    return -(log_p.exp() * log_q).sum(-1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) = sum p (log p - log q), the cross entropy minus the entropy of the teacher."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(q || p) = sum q (log q - log p) (Gu et al. 2024, MiniLLM, section 2.1; Wen et al. 2023)."""
    return kl(log_q, log_p)


def generalized_js(log_p: Tensor, log_q: Tensor, *, beta: float = 0.5) -> Tensor:
    """Return beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (Agarwal et al. 2024, section 2).

    beta = 1/2 is the Jensen-Shannon divergence, at most log 2.
    """
    log_m = _log_mixture(log_p, log_q, beta)
    return beta * kl(log_p, log_m) + (1.0 - beta) * kl(log_q, log_m)


def skewed_kl(log_p: Tensor, log_q: Tensor, *, skew: float = 0.1) -> Tensor:
    """Return KL(p || m) with m = skew p + (1 - skew) q (Ko et al. 2024, DistiLLM, section 3.1), at most -log skew."""
    return kl(log_p, _log_mixture(log_p, log_q, skew))


def skewed_reverse_kl(log_p: Tensor, log_q: Tensor, *, skew: float = 0.1) -> Tensor:
    """Return KL(q || m) with m = (1 - skew) p + skew q (Ko et al. 2024, DistiLLM, section 3.1), at most -log skew."""
    return kl(log_q, _log_mixture(log_p, log_q, 1.0 - skew))


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """Return the logarithm of share * p + (1 - share) * q."""
    return torch.lerp(log_q.exp(), log_p.exp(), share).clamp_min(torch.finfo(log_q.dtype).tiny).log()


def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return sum |p - q| / 2, at most 1 (Wen et al. 2023, equation of TVD). Its slope at p = q, a corner, is 0."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def squared_error(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return sum (p - q)^2, the distance of soft labels (Ba & Caruana 2014, who use logits)."""
    return (log_p.exp() - log_q.exp()).square().sum(-1)


# ------------------------------------------------------------------------------------------- distributions and slopes


@dataclass
class Distribution:
    """Softmax that is normalised when its probabilities are first read, since each pass over such a matrix is slow.

    Attributes:
        scores: logits minus a constant of each row, [..., V].
        exps: exponentials of the scores.
        is_normalised: whether the exponentials sum to 1.
    """

    scores: Tensor
    exps: Tensor
    is_normalised: bool = False
    _sums: Tensor | None = None

    @classmethod
    def of_logs(cls, logs: Tensor) -> Distribution:
        """Make a distribution from the logarithms of its probabilities."""
        return cls(logs, logs.exp(), is_normalised=True, _sums=torch.ones_like(logs[..., :1]))

    @classmethod
    def of_logits(cls, logits: Tensor, *, out: Tensor | None = None) -> Distribution:
        """Make the softmax of logits. The scores overwrite the logits; the exponentials are written to `out`."""
        scores = logits.sub_(logits.amax(-1, keepdim=True))
        return cls(scores, torch.exp(scores, out=out))

    @property
    def sums(self) -> Tensor:
        """Sum of the exponentials of each row, [..., 1]."""
        if self._sums is None:
            self._sums = self.exps.sum(-1, keepdim=True)
        return self._sums

    def take_out(self, ids: Tensor) -> Tensor:
        """Set the exponentials of the columns `ids`, [..., K], to 0 and return the sum of the others, [..., 1].

        The others are summed, since 1 minus the sum of `ids` could be nothing but rounding error. `sums` keeps its
        value.
        """
        taken = self.exps.gather(-1, ids).sum(-1, keepdim=True)
        rest = self.exps.scatter_(-1, ids, 0.0).sum(-1, keepdim=True)
        if self._sums is None:
            self._sums = rest + taken
        return rest

    @property
    def log_sums(self) -> Tensor:
        """Logarithm of `sums`, [..., 1]."""
        return self.sums.log()

    def normalised(self) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and probabilities, which overwrite the scores and the exponentials."""
        if not self.is_normalised:
            self.scores.sub_(self.log_sums)
            self.exps.div_(self.sums)
            self._sums, self.is_normalised = torch.ones_like(self.sums), True
        return self.scores, self.exps

    @property
    def logs(self) -> Tensor:
        return self.normalised()[0]

    @property
    def probs(self) -> Tensor:
        return self.normalised()[1]

    def confidence(self) -> Tensor:
        """Return the largest probability, [...]."""
        return self.exps.amax(-1) / self.sums[..., 0]

    def entropy(self) -> Tensor:
        """Return the entropy in nats, [...]."""
        return (self.log_sums - (self.exps * self.scores).sum(-1, keepdim=True) / self.sums)[..., 0]


@dataclass(frozen=True)
class Slope:
    """d value / d log q, as `values * factor`.

    Attributes:
        values: [..., V].
        factor: [..., 1] or 1.
        total: sum of the slope over V, [..., 1].
    """

    values: Tensor
    factor: Tensor | float
    total: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Slope:
        return cls(values, 1.0, values.sum(-1, keepdim=True))


# (p, q, *, out=None) -> the value [...], in nats for information measures, and the slope; `out` is memory for either
Comparison = Callable[..., tuple[Tensor, Slope]]


def compare_by_autograd(
    function: Callable[[Tensor, Tensor], Tensor], p: Distribution, q: Distribution
) -> tuple[Tensor, Slope]:
    """Return the value of a plain function of log-probabilities and its slope by autograd."""
    with torch.enable_grad():
        log_q = q.logs.detach().requires_grad_()
        value = function(p.logs.detach(), log_q)
        (slope,) = torch.autograd.grad(value.sum(), log_q)
    return value.detach(), Slope.of(slope)


# ----------------------------------------------------------------------------------------------- hand-derived slopes


def _fast_cross_entropy(p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    of_scores = torch.mul(p.exps, q.scores, out=out).sum(-1, keepdim=True) / p.sums
    return (q.log_sums - of_scores)[..., 0], _minus(p)


def _fast_kl(p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    of_scores = torch.sub(p.scores, q.scores, out=out).mul_(p.exps).sum(-1, keepdim=True) / p.sums
    return (of_scores + q.log_sums - p.log_sums)[..., 0], _minus(p)


def _fast_reverse_kl(p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    parts = torch.sub(q.logs, p.logs, out=out).mul_(q.probs)
    return parts.sum(-1), Slope.of(parts.add_(q.probs))


def _fast_skewed_kl(
    p: Distribution, q: Distribution, *, skew: float = 0.1, out: Tensor | None = None
) -> tuple[Tensor, Slope]:
    """Return the value and the slope of `skewed_kl`, which is -(1 - skew) q p / m."""
    mixture = torch.lerp(q.probs, p.probs, skew, out=out)
    mixture.clamp_min_(torch.finfo(mixture.dtype).tiny)
    value = (p.logs - mixture.log()).mul_(p.probs).sum(-1)
    ratio = torch.div(p.probs, mixture, out=mixture)  # at most 1 / skew
    return value, Slope.of(ratio.mul_(q.probs).mul_(skew - 1.0))


def _fast_skewed_reverse_kl(
    p: Distribution, q: Distribution, *, skew: float = 0.1, out: Tensor | None = None
) -> tuple[Tensor, Slope]:
    """Return the value and the slope of `skewed_reverse_kl`, which is q (log q - log m + (1 - skew) p / m)."""
    mixture = torch.lerp(q.probs, p.probs, 1.0 - skew, out=out)
    mixture.clamp_min_(torch.finfo(mixture.dtype).tiny)
    log_ratio = q.logs - mixture.log()
    value = (log_ratio * q.probs).sum(-1)
    share = torch.div(p.probs, mixture, out=mixture).mul_(1.0 - skew)  # of p in the mixture, at most 1
    return value, Slope.of(share.add_(log_ratio).mul_(q.probs))


def _fast_js(p: Distribution, q: Distribution, *, beta: float = 0.5, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    """Return the value and the slope of `generalized_js`.

    The parts of the slope that come from m cancel: the sum over p, q and m of their derivatives by q is 0.
    """
    mixture = torch.lerp(q.probs, p.probs, beta, out=out)
    log_m = mixture.clamp_min_(torch.finfo(mixture.dtype).tiny).log_()
    towards_p = (p.logs - log_m).mul_(p.probs).sum(-1)
    parts = torch.sub(q.logs, log_m, out=log_m).mul_(q.probs)
    return beta * towards_p + (1.0 - beta) * parts.sum(-1), Slope.of(parts.mul_(1.0 - beta))


def _fast_total_variation(p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    difference = torch.sub(q.probs, p.probs, out=out)
    value = difference.abs().sum(-1) / 2
    return value, Slope.of(difference.sign_().mul_(q.probs).mul_(0.5))


def _fast_squared_error(p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    difference = torch.sub(q.probs, p.probs, out=out)
    return difference.square().sum(-1), Slope.of(difference.mul_(q.probs).mul_(2.0))


def _minus(p: Distribution) -> Slope:
    return Slope(p.exps, -1.0 / p.sums, -torch.ones_like(p.sums))


# ---------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Divergence:
    """Divergence between the distributions of teacher and student.

    Attributes:
        function: plain function of log-probabilities, (log_p, log_q) -> value.
        fast: function that returns the value and the hand-derived slope; None to use autograd.
        of_groups: whether it can be computed over groups of tokens, as a cache of the teacher's best tokens requires.
        times_squared_temperature: whether the loss is value * T^2, which keeps the size of the gradient at any
            temperature T (Hinton et al. 2015, section 2).
        parameter: name of the number that the function takes in addition, `beta` or `skew`; None for none.
    """

    function: Callable[..., Tensor]
    fast: Comparison | None = None
    of_groups: bool = True
    times_squared_temperature: bool = False
    parameter: Literal["beta", "skew"] | None = None

    def compare(self, p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
        """Return the value [...], in nats for information measures, and the slope; `out` is memory for either."""
        return compare_by_autograd(self.function, p, q) if self.fast is None else self.fast(p, q, out=out)

    def scale(self, temperature: float) -> float:
        return temperature**2 if self.times_squared_temperature else 1.0


DIVERGENCES: Mapping[str, Divergence] = {
    "kl": Divergence(kl, _fast_kl, times_squared_temperature=True),
    "reverse_kl": Divergence(reverse_kl, _fast_reverse_kl, times_squared_temperature=True),
    "skewed_kl": Divergence(skewed_kl, _fast_skewed_kl, times_squared_temperature=True, parameter="skew"),
    "skewed_reverse_kl": Divergence(
        skewed_reverse_kl, _fast_skewed_reverse_kl, times_squared_temperature=True, parameter="skew"
    ),
    "js": Divergence(generalized_js, _fast_js, parameter="beta"),
    "tvd": Divergence(total_variation, _fast_total_variation),
    "cross_entropy": Divergence(cross_entropy, _fast_cross_entropy, times_squared_temperature=True),
    "squared_error": Divergence(squared_error, _fast_squared_error, of_groups=False),
}


def divergence(name: str, *, beta: float = 0.5, skew: float = 0.1) -> Divergence:
    """Return a divergence by its name.

    Args:
        name: a key of `DIVERGENCES`.
        beta: share of the teacher in the mixture of `js`, between 0 and 1.
        skew: share of the first distribution in the mixture of `skewed_kl` and `skewed_reverse_kl`, between 0 and 1.

    Raises:
        ValueError: if the name is unknown, or the number that the divergence takes is out of range.
    """
    if name not in DIVERGENCES:
        raise ValueError(f"unknown divergence {name!r}: use one of {', '.join(DIVERGENCES)}")
    found = DIVERGENCES[name]
    if found.parameter is None:
        return found
    number = {"beta": beta, "skew": skew}[found.parameter]
    if not 0.0 < number < 1.0:
        raise ValueError(f"{found.parameter} ({number}) is not between 0 and 1")
    given = {found.parameter: number}
    fast = None if found.fast is None else partial(found.fast, **given)
    return replace(found, function=partial(found.function, **given), fast=fast)
