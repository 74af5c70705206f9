"""Schedule of the learning rate as a function of the update and the settings alone.

Each schedule begins with the same warmup: the learning rate rises linearly from `warmup_init_lr` to `lr` over
`warmup_updates`. The formulas below are those of fairseq 0.12.2 (fairseq/optim/lr_scheduler), where `update` is
fairseq's `num_updates`, counted from 0, and `total` is `max_updates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from kdmt.choices import LRSchedule
from kdmt.config import Train


def learning_rate(update: int, settings: Train, *, offset: int = 0) -> float:
    """Return the learning rate of an update.

    Args:
        update: number of the update in this run, counted from 0.
        offset: number of updates of an earlier run whose schedule this run continues (`init_optimizer`). The learning
            rates are then those of a single run of `offset + max_updates` updates from update `offset` on.
    """
    done = offset + update
    if settings.lr_schedule == "inverse_sqrt":
        return inverse_sqrt(done, settings)
    if done < settings.warmup_updates:
        return _warmup(done, settings)
    total = offset + settings.max_updates
    if done >= total:
        return settings.min_lr
    return _DECAYS[settings.lr_schedule](done, total, settings)


def inverse_sqrt(update: int, settings: Train) -> float:
    """Return lr * sqrt(warmup_updates / update) after the warmup; it does not depend on the number of updates.

    Vaswani et al. 2017, equation 3, in fairseq's parametrisation (inverse_square_root_schedule.py).
    """
    if update < settings.warmup_updates:
        return _warmup(update, settings)
    return settings.lr * (settings.warmup_updates / update) ** 0.5


def _warmup(update: int, settings: Train) -> float:
    """Return warmup_init_lr + update * (lr - warmup_init_lr) / warmup_updates."""
    return settings.warmup_init_lr + update * (settings.lr - settings.warmup_init_lr) / settings.warmup_updates


def _polynomial_decay(update: int, total: int, settings: Train) -> float:
    """Return (lr - min_lr) * (1 - (update - warmup_updates) / (total - warmup_updates)) ** power + min_lr.

    fairseq's polynomial_decay_schedule.py, where `min_lr` is `end_learning_rate` and `total` is `total_num_update`. Its
    warmup is the one above with `warmup_init_lr: 0`.
    """
    return (settings.lr - settings.min_lr) * _remaining(update, total, settings) ** settings.power + settings.min_lr


def _linear(update: int, total: int, settings: Train) -> float:
    """Return (lr - min_lr) * (1 - (update - warmup_updates) / (total - warmup_updates)) + min_lr.

    fairseq's polynomial_decay with its default `power`, 1.
    """
    return (settings.lr - settings.min_lr) * _remaining(update, total, settings) + settings.min_lr


def _cosine(update: int, total: int, settings: Train) -> float:
    """Return min_lr + 0.5 * (lr - min_lr) * (1 + cos(pi * (update - warmup_updates) / (total - warmup_updates))).

    fairseq's cosine_lr_scheduler.py with its default period, which is all updates after the warmup (Loshchilov and
    Hutter 2017, equation 5, without restarts).
    """
    done = 1.0 - _remaining(update, total, settings)
    return settings.min_lr + 0.5 * (settings.lr - settings.min_lr) * (1.0 + math.cos(math.pi * done))


def _wsd(update: int, total: int, settings: Train) -> float:
    """Return lr, and in the last updates min_lr + (lr - min_lr) * (total - update) / decay.

    `decay` is decay_share * total, but not more than the updates after the warmup. This is the
    warmup-stable-decay schedule of Hu et al. 2024 (MiniCPM, section 4) with the linear decay of Haegele et al. 2024
    (section 3); fairseq does not have it.
    """
    decay = min(settings.decay_share * total, total - settings.warmup_updates)
    return settings.min_lr + (settings.lr - settings.min_lr) * min(1.0, (total - update) / decay)


def _remaining(update: int, total: int, settings: Train) -> float:
    """Return the share of the updates after the warmup that is not done, 1 at its end and 0 at `total`."""
    return 1.0 - (update - settings.warmup_updates) / (total - settings.warmup_updates)


_DECAYS: dict[LRSchedule, Callable[[int, int, Train], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "polynomial_decay": _polynomial_decay,
    "wsd": _wsd,
}
