"""Records of the dropout masks that a model draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdmt.models import dropout


def recorded_masks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list to which each mask that is drawn on the CPU from now on is added."""
    masks: list[Tensor] = []
    draw_mask = dropout.draw_mask

    def record(shape: torch.Size, p: float) -> tuple[Tensor, float]:
        keep, scale = draw_mask(shape, p)
        masks.append(keep.clone())
        return keep, scale

    monkeypatch.setattr(dropout, "draw_mask", record)
    return masks
