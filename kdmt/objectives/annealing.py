"""Weights that change during training, as functions of the update."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def piecewise_linear(update: int, points: Sequence[tuple[int, float]]) -> float:
    """Return the value at an update, from 0, on lines between (update, value) points; constant beyond them."""
    updates, values = zip(*points, strict=True)
    return float(np.interp(update, updates, values))
