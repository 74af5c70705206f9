"""How far a student's distribution is from its teacher's, and by which slope it comes nearer.

p is the teacher's distribution, q the student's, over the last dimension, which is the vocabulary or a partition of it:
p and q summed over the same groups of tokens. For every divergence here but the squared error the value over a
partition never exceeds that over the vocabulary (data-processing inequality).

A slope is the derivative by log q, taken as if the entries of log q were free. With log q = log_softmax(z) the gradient
by the logits is

    d value / d z_v = slope_v - q_v sum_u slope_u

Shape: ... any leading dimensions, V vocabulary or groups of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol, get_args

import torch
from torch import Tensor

from kdmt.choices import DivergenceName

LOG_ZERO = -1e4  # stands for the logarithm of 0: its exponential is 0, and 0 times it is 0


@dataclass
class Distribution:
    """A softmax, normalised when its probabilities are asked for: each pass over such a matrix is dear.

    Attributes:
        scores: logits less a number of each row, [..., V].
        exps: their exponentials.
        is_normalised: whether they add up to 1.
    """

    scores: Tensor
    exps: Tensor
    is_normalised: bool = False
    _sums: Tensor | None = None

    @classmethod
    def of_logs(cls, logs: Tensor) -> Distribution:
        """From logarithms of probabilities."""
        return cls(logs, logs.exp(), is_normalised=True, _sums=torch.ones_like(logs[..., :1]))

    @classmethod
    def of_logits(cls, logits: Tensor, *, out: Tensor | None = None) -> Distribution:
        """The softmax of logits, whose memory the scores take; that of the exponentials is `out`."""
        scores = logits.sub_(logits.amax(-1, keepdim=True))
        return cls(scores, torch.exp(scores, out=out))

    @property
    def sums(self) -> Tensor:
        """The exponentials of a row added up, [..., 1]."""
        if self._sums is None:
            self._sums = self.exps.sum(-1, keepdim=True)
        return self._sums

    def take_out(self, ids: Tensor) -> Tensor:
        """Set the exponentials of the columns `ids`, [..., K], to 0. Returns the sum of the others, [..., 1].

        They are added up, since 1 less those of `ids` would be rounding alone. `sums` stays that of all.
        """
        taken = self.exps.gather(-1, ids).sum(-1, keepdim=True)
        rest = self.exps.scatter_(-1, ids, 0.0).sum(-1, keepdim=True)
        if self._sums is None:
            self._sums = rest + taken
        return rest

    @property
    def log_sums(self) -> Tensor:
        """[..., 1]"""
        return self.sums.log()

    def normalised(self) -> tuple[Tensor, Tensor]:
        """The logarithms of the probabilities and the probabilities, in the memory of scores and exponentials."""
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
        """The largest probability: [...]."""
        return self.exps.amax(-1) / self.sums[..., 0]

    def entropy(self) -> Tensor:
        """In nats: [...]."""
        return (self.log_sums - (self.exps * self.scores).sum(-1, keepdim=True) / self.sums)[..., 0]


@dataclass(frozen=True)
class Slope:
    """d value / d log q, as `values * factor`.

    Attributes:
        values: [..., V].
        factor: [..., 1] or 1.
        total: the slope's sum over V, [..., 1].
    """

    values: Tensor
    factor: Tensor | float
    total: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Slope:
        return cls(values, 1.0, values.sum(-1, keepdim=True))


class Comparison(Protocol):
    """How far q is from p, and the slope."""

    def __call__(self, p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
        """The value [...], in nats where it is one of information, and the slope; `out` is memory for either."""
        ...


@dataclass(frozen=True)
class Divergence:
    """One divergence.

    Attributes:
        compare: its value and slope.
        of_groups: whether groups of tokens can stand for tokens; a cache of the teacher's best tokens needs it.
        times_squared_temperature: whether the loss is value * T ** 2, which keeps the gradient's size at any
            temperature T (Hinton et al. 2015, section 2).
    """

    compare: Comparison
    of_groups: bool = True
    times_squared_temperature: bool = False

    def scale(self, temperature: float) -> float:
        return temperature**2 if self.times_squared_temperature else 1.0


def cross_entropy(p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    """-sum p log q, with soft labels p (Hinton et al. 2015; Kim & Rush 2016, equation of L_WORD-KD)."""
    of_scores = torch.mul(p.exps, q.scores, out=out).sum(-1, keepdim=True) / p.sums
    return (q.log_sums - of_scores)[..., 0], _minus(p)


def kl(p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    """KL(p || q) = sum p (log p - log q): the cross entropy less the teacher's own entropy."""
    of_scores = torch.sub(p.scores, q.scores, out=out).mul_(p.exps).sum(-1, keepdim=True) / p.sums
    return (of_scores + q.log_sums - p.log_sums)[..., 0], _minus(p)


def reverse_kl(p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    """KL(q || p) = sum q (log q - log p) (Gu et al. 2024, MiniLLM, section 2.1; Wen et al. 2023)."""
    parts = torch.sub(q.logs, p.logs, out=out).mul_(q.probs)
    return parts.sum(-1), Slope.of(parts.add_(q.probs))


def generalized_js(p: Distribution, q: Distribution, *, beta: float, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (Agarwal et al. 2024, section 2).

    beta = 1/2 is the Jensen-Shannon divergence, at most log 2. In the slope the parts that come from m cancel: the sum
    over p, q and m of their derivatives by q is 0.
    """
    mixture = torch.lerp(q.probs, p.probs, beta, out=out)
    log_m = mixture.clamp_min_(torch.finfo(mixture.dtype).tiny).log_()
    towards_p = (p.logs - log_m).mul_(p.probs).sum(-1)
    parts = torch.sub(q.logs, log_m, out=log_m).mul_(q.probs)
    return beta * towards_p + (1.0 - beta) * parts.sum(-1), Slope.of(parts.mul_(1.0 - beta))


def total_variation(p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    """sum |p - q| / 2, at most 1 (Wen et al. 2023, equation of TVD). Its slope at p = q, a corner, is 0."""
    difference = torch.sub(q.probs, p.probs, out=out)
    value = difference.abs().sum(-1) / 2
    return value, Slope.of(difference.sign_().mul_(q.probs).mul_(0.5))


def squared_error(p: Distribution, q: Distribution, *, out: Tensor | None = None) -> tuple[Tensor, Slope]:
    """sum (p - q) ** 2, the distance of soft labels (Ba & Caruana 2014, who take it of logits)."""
    difference = torch.sub(q.probs, p.probs, out=out)
    return difference.square().sum(-1), Slope.of(difference.mul_(q.probs).mul_(2.0))


def _minus(p: Distribution) -> Slope:
    return Slope(p.exps, -1.0 / p.sums, -torch.ones_like(p.sums))


def divergence(name: str, *, beta: float = 0.5) -> Divergence:
    """A divergence by its name in the settings.

    Args:
        name: one of `NAMES`.
        beta: of `js`, between 0 and 1: the teacher's share in the mixture.

    Raises:
        ValueError: there is none of that name, or beta is out of range.
    """
    if name == "js" and not 0.0 < beta < 1.0:
        raise ValueError(f"beta ({beta}) is not between 0 and 1")
    if name not in NAMES:
        raise ValueError(f"unknown divergence {name!r}: use one of {', '.join(NAMES)}")
    return {
        "kl": Divergence(kl, times_squared_temperature=True),
        "reverse_kl": Divergence(reverse_kl, times_squared_temperature=True),
        "js": Divergence(partial(generalized_js, beta=beta)),
        "tvd": Divergence(total_variation),
        "cross_entropy": Divergence(cross_entropy, times_squared_temperature=True),
        "squared_error": Divergence(squared_error, of_groups=False),
    }[name]


NAMES = get_args(DivergenceName)
