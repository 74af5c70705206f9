"""Weights that change during training, as functions of the update alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def piecewise_linear(update: int, points: Sequence[tuple[int, float]]) -> float:
    """The value at an update, counted from 0, on lines between (update, value) points; beyond them the nearest's."""
    updates, values = zip(*points, strict=True)
    return float(np.interp(update, updates, values))
