"""Schedules of the learning rate and of weights, as functions of the update alone."""

from __future__ import annotations

from kdmt.config import Train


def inverse_sqrt(update: int, settings: Train) -> float:
    """The learning rate of update number `update`, counted from 0.

    Linear from `warmup_init_lr` to `lr` over `warmup_updates`, then lr * sqrt(warmup_updates / update)
    (Vaswani et al. 2017, equation 3, in fairseq's parametrisation: inverse_square_root_schedule.py).
    """
    if update < settings.warmup_updates:
        return settings.warmup_init_lr + update * (settings.lr - settings.warmup_init_lr) / settings.warmup_updates
    return settings.lr * (settings.warmup_updates / update) ** 0.5
