"""Glancing training: a student is shown more of the target the more errors it makes (Qian et al. 2021, GLAT).

Shapes: B batch, L decoder positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdmt.choices import GlancingDistance
from kdmt.objectives.transfer import copied

Distance = GlancingDistance  # between the student's first output and the reference


def glanced(distance_B: Tensor, keep_BL: Tensor, *, ratio: float) -> Tensor:
    """Draw the positions that are shown, int(ratio * distance) of each sentence, bool [B, L].

    Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps.

    Args:
        distance_B: int64, distance between the first output of the student and the reference.
        keep_BL: bool, real positions, at least as many.
    """
    return drawn((ratio * distance_B).long(), keep_BL)


def drawn(counts_B: Tensor, keep_BL: Tensor) -> Tensor:
    """Draw as many real positions of each sentence as `counts_B` says, bool [B, L]."""
    order_BL = copied(torch.rand(keep_BL.shape), keep_BL.device).masked_fill(~keep_BL, 2.0).argsort(1)
    first_BL = torch.arange(keep_BL.size(1), device=keep_BL.device) < counts_B[:, None]
    return torch.zeros_like(keep_BL).scatter(1, order_BL, first_BL)
