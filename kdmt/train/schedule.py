"""Schedule of the learning rate as a function of the update alone."""

from __future__ import annotations

from kdmt.config import Train


def inverse_sqrt(update: int, settings: Train) -> float:
    """Return the learning rate of update number `update`, counted from 0.

    It rises linearly from `warmup_init_lr` to `lr` over `warmup_updates`, then it is lr * sqrt(warmup_updates / update)
    (Vaswani et al. 2017, equation 3, in fairseq's parametrisation: inverse_square_root_schedule.py).
    """
    if update < settings.warmup_updates:
        return settings.warmup_init_lr + update * (settings.lr - settings.warmup_init_lr) / settings.warmup_updates
    return settings.lr * (settings.warmup_updates / update) ** 0.5
