"""Exponential moving averages of weights: of a model that is saved, or of a teacher that follows its student."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


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


def follow(averages: Iterable[Tensor], weights: Iterable[Tensor], *, decay: float) -> None:
    """Update averages in place: average = decay * average + (1 - decay) * weight.

    On a GPU, one kernel updates many tensors.
    """
    averages, weights = list(averages), list(weights)
    if len(averages) != len(weights):
        raise ValueError(f"{len(averages)} averages of {len(weights)} weights")
    if averages:
        get_ema_multi_avg_fn(decay)(averages, weights, 0)
