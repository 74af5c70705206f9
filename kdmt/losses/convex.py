"""Convex function of the likelihood of a target (Shao et al. 2023, Beyond MLE: convex learning for text generation).

With the mean log-probability of the T tokens of a target and a power k, the loss of a sentence is

    T (1 - exp(k mean_t log p(y_t)))  =  T (1 - P(y)^{k / T})

The paper has no constant T, which does not change the gradient: k P(y)^{k / T} times that of -log P(y). Sentences that
are already probable count more, so that the distribution moves to one of several translations. An improbable sentence
has almost no gradient: the loss is for a model that was trained by likelihood before.
"""

from __future__ import annotations

from torch import Tensor


def convex_loss(log_likelihood_B: Tensor, lengths_B: Tensor, *, power: float) -> Tensor:
    """Return the loss of each sentence, 0 to T: [B]; 0 for an empty target.

    Args:
        log_likelihood_B: log P(target), natural.
        lengths_B: number of tokens of each target, T.
        power: exponent k.
    """
    return lengths_B * -(power * log_likelihood_B / lengths_B.clamp_min(1)).expm1()


def convex_weights(log_likelihood_B: Tensor, lengths_B: Tensor, *, power: float) -> Tensor:
    """Return the factor by which the gradient differs from that of -log P(target): [B]."""
    return power * (power * log_likelihood_B / lengths_B.clamp_min(1)).exp()
