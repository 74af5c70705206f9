"""Dropout whose random numbers are cheap on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_INT64_MIN = -(2**63)


class Dropout(nn.Module):
    """Inverted dropout with probability `p` in steps of 2**-16 on CPU.

    PyTorch draws one number from its serial generator for each element on CPU, which costs more than the layer it
    regularises in small models. Here one 64-bit draw decides four elements.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p, training=True)
        return x * keep_mask(x, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def keep_mask(x: Tensor, p: float) -> Tensor:
    """A mask of x's shape and dtype: 0 with probability p, 1 / (1 - p) otherwise."""
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(_INT64_MIN, None).view(torch.int16)
    threshold = round(p * 2**16)
    keep = draws[: x.numel()] >= threshold - 2**15
    return keep.view(x.shape).to(x.dtype).mul_(2**16 / (2**16 - threshold))
