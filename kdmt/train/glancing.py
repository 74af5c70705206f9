"""Glancing training: a student is shown as much of the answer as it gets wrong (Qian et al. 2021, GLAT).

Shapes: B batch, L decoder positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def glanced(wrong_BL: Tensor, keep_BL: Tensor, *, ratio: float) -> Tensor:
    """Positions that are shown: in each sentence int(ratio * number of wrong ones) of all its positions, at random.

    Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps.

    Args:
        wrong_BL: bool, where the student's own first answer differs from the reference.
        keep_BL: bool, real positions.
    """
    return drawn((ratio * (wrong_BL & keep_BL).sum(1)).long(), keep_BL)


def drawn(counts_B: Tensor, keep_BL: Tensor) -> Tensor:
    """So many of each sentence's real positions, at random: bool [B, L]."""
    order_BL = torch.rand(keep_BL.shape).to(keep_BL.device).masked_fill(~keep_BL, 2.0).argsort(1)
    first_BL = torch.arange(keep_BL.size(1), device=keep_BL.device) < counts_B[:, None]
    return torch.zeros_like(keep_BL).scatter(1, order_BL, first_BL)
