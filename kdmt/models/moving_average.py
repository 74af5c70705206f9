"""Exponential moving averages of weights: of a model that is saved, or of a teacher that follows its student."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def decay_at(update: int, decay: float) -> float:
    """Return the decay of an average of the weights after an update.

        min(decay, (1 + t) / (10 + t))

    This is the one of Marian's `--exponential-smoothing`, where the setting is 1 - decay: early averages forget the
    random initial weights fast.

    Args:
        update: number t of updates before this one.
        decay: decay of later updates, at least 0 and less than 1.
    """
    return min(decay, (1 + update) / (10 + update))


@torch.no_grad()
def follow(averages: Iterable[Tensor], weights: Iterable[Tensor], *, decay: float) -> None:
    """Update averages in place: average = decay * average + (1 - decay) * weight."""
    for average, weight in zip(averages, weights, strict=True):
        average.lerp_(weight, 1.0 - decay)
