"""The divergences as the formulas of their papers, on whole matrices; autograd gives the gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def divergence_by_formula(name: str, log_p: Tensor, log_q: Tensor, beta: float = 0.5, skew: float = 0.1) -> Tensor:
    """Return the divergence at each position: [..., V] and [..., V] -> [...]."""
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return {
        "kl": lambda: p * (log_p - log_q),
        "reverse_kl": lambda: q * (log_q - log_p),
        "skewed_kl": lambda: p * (log_p - torch.logaddexp(log_p + math.log(skew), log_q + math.log1p(-skew))),
        "skewed_reverse_kl": lambda: q * (log_q - torch.logaddexp(log_p + math.log1p(-skew), log_q + math.log(skew))),
        "js": lambda: beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m),
        "tvd": lambda: (p - q).abs() / 2,
        "cross_entropy": lambda: -p * log_q,
        "squared_error": lambda: (p - q) ** 2,
    }[name]().sum(-1)
