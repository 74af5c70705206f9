"""Dropout whose random numbers are cheap on a CPU."""

from __future__ import annotations

from typing import Any

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
        return _MaskedProduct.apply(x, *draw_mask(x.shape, self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _MaskedProduct(torch.autograd.Function):
    """x * keep * scale, of which a byte an element is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return _times_mask(x, keep, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _times_mask(grad, ctx.saved_tensors[0], ctx.scale), None, None


def _times_mask(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    if x.dtype == torch.bfloat16:  # rounded to bf16 the scale alone would be off by up to 0.2%
        return (x * keep.to(x.dtype)).mul_(scale)
    return x * keep.to(x.dtype).mul_(scale)


def draw_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """A mask on the CPU, False with probability p in steps of 2**-16, and the factor for what it keeps."""
    count = shape.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(_INT64_MIN, None).view(torch.int16)
    threshold = round(p * 2**16)
    keep = draws[:count] >= threshold - 2**15
    return keep.view(shape), 2**16 / (2**16 - threshold)
