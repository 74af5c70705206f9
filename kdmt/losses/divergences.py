"""How far a student's distribution is from its teacher's, and by which slope it comes nearer.

p is the teacher's distribution, q the student's, both given as natural logarithms over the last dimension, which is the
vocabulary or a partition of it: p and q summed over the same groups of tokens. For every divergence here but the
squared error the value over a partition never exceeds that over the vocabulary (data-processing inequality).

A slope is the derivative by log q, taken as if the entries of log q were free. With log q = log_softmax(z) the gradient
by the logits is

    d value / d z_v = slope_v - q_v sum_u slope_u

Shape: ... any leading dimensions, V vocabulary or groups of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

LOG_ZERO = -1e4  # stands for the logarithm of 0: its exponential is 0, and 0 times it is 0


@dataclass(frozen=True)
class Divergence:
    """One divergence.

    Attributes:
        value: (log_p [..., V], log_q [..., V]) -> [...], in nats where it is one of information.
        slope: (log_p, log_q) -> d value / d log q, [..., V].
        of_groups: whether groups of tokens can stand for tokens; a cache of the teacher's best tokens needs it.
        times_squared_temperature: whether the loss is value * T ** 2, which keeps the gradient's size at any
            temperature T (Hinton et al. 2015, section 2).
    """

    value: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    of_groups: bool = True
    times_squared_temperature: bool = False

    def scale(self, temperature: float) -> float:
        return temperature**2 if self.times_squared_temperature else 1.0


def cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """-sum p log q, with soft labels p (Hinton et al. 2015; Kim & Rush 2016, equation of L_WORD-KD)."""
    return -(log_p.exp() * log_q).sum(-1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum p (log p - log q): the cross entropy less the teacher's own entropy."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(q || p) = sum q (log q - log p)."""
    return kl(log_q, log_p)


def generalized_js(log_p: Tensor, log_q: Tensor, *, beta: float) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (Agarwal et al. 2024, section 2).

    beta = 1/2 is the Jensen-Shannon divergence, at most log 2.
    """
    log_m = _log_mixture(log_p, log_q, beta)
    return beta * kl(log_p, log_m) + (1.0 - beta) * kl(log_q, log_m)


def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum |p - q| / 2, at most 1 (Wen et al. 2023, equation of TVD)."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def squared_error(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum (p - q) ** 2."""
    return (log_p.exp() - log_q.exp()).square().sum(-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))


def _cross_entropy_slope(log_p: Tensor, _: Tensor) -> Tensor:
    return log_p.exp().neg_()


def _reverse_kl_slope(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_q - log_p).add_(1.0).mul_(log_q.exp())


def _generalized_js_slope(log_p: Tensor, log_q: Tensor, *, beta: float) -> Tensor:
    """The parts that come from m cancel: sum over p, q and m of their derivatives by q is 0."""
    return (log_q - _log_mixture(log_p, log_q, beta)).mul_(log_q.exp()).mul_(1.0 - beta)


def _total_variation_slope(log_p: Tensor, log_q: Tensor) -> Tensor:
    """At p = q, where it has a corner, 0."""
    return (log_q - log_p).sign_().mul_(log_q.exp()).mul_(0.5)


def _squared_error_slope(log_p: Tensor, log_q: Tensor) -> Tensor:
    q = log_q.exp()
    return (q - log_p.exp()).mul_(q).mul_(2.0)


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
        "kl": Divergence(kl, _cross_entropy_slope, times_squared_temperature=True),
        "reverse_kl": Divergence(reverse_kl, _reverse_kl_slope, times_squared_temperature=True),
        "js": Divergence(partial(generalized_js, beta=beta), partial(_generalized_js_slope, beta=beta)),
        "tvd": Divergence(total_variation, _total_variation_slope),
        "cross_entropy": Divergence(cross_entropy, _cross_entropy_slope, times_squared_temperature=True),
        "squared_error": Divergence(squared_error, _squared_error_slope, of_groups=False),
    }[name]


NAMES = ("kl", "reverse_kl", "js", "tvd", "cross_entropy", "squared_error")
