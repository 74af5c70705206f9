"""Dropout with fast random numbers on CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_INT64_MIN = -(2**63)


class Dropout(nn.Module):
    """Inverted dropout with probability `p` in steps of 2**-16 on CPU.

    PyTorch draws one number from its serial generator for each element on CPU. In small models this takes longer than
    the layer that it regularises. Here one 64-bit draw decides four elements, and one byte per element is kept for the
    backward pass.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p, training=True)
        return _Masked.apply(x, self.p)

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        """Return x + dropout(update), keeping only the sum and the mask in memory."""
        if not self.training or self.p == 0.0 or x.device.type != "cpu":
            return x + self(update)
        return _MaskedSum.apply(update.to(x.dtype), x, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        keep, ctx.scale = draw_mask(x.shape, p)
        ctx.save_for_backward(keep)
        return _multiply(x, keep, ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _multiply(grad, ctx.saved_tensors[0], ctx.scale), None


class _MaskedSum(torch.autograd.Function):
    """x + dropout(update).

    The sum has memory of its own: `update` may be a view, such as the output of a linear layer over three dimensions,
    for whose change in place autograd copies the gradient (`CopySlices`).
    """

    @staticmethod
    def forward(ctx: Any, update: Tensor, x: Tensor, p: float) -> Tensor:
        keep, ctx.scale = draw_mask(x.shape, p)
        ctx.save_for_backward(keep)
        return _multiply(update, keep, ctx.scale).add_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return _multiply(grad, ctx.saved_tensors[0], ctx.scale), grad, None


def _multiply(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    """Return x * keep * scale in a new tensor.

    The mask is converted to numbers first, since a product of numbers and booleans takes 40 times as long.
    """
    numbers = torch.empty_like(x).copy_(keep)
    if x.dtype == torch.bfloat16:  # rounding the scale to bfloat16 would change it by up to 0.2%
        return torch.mul(numbers, x, out=numbers).mul_(scale)
    return torch.mul(numbers.mul_(scale), x, out=numbers)


def draw_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """Draw a mask on the CPU, False with probability p in steps of 2**-16.

    Returns:
        The mask, bool, and the factor for the values that it keeps.
    """
    keep = torch.empty(shape, dtype=torch.bool)  # allocated before the draws, to avoid fragmentation of the heap
    count = shape.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(_INT64_MIN, None).view(torch.int16)
    threshold = round(p * 2**16)
    torch.ge(draws[:count], threshold - 2**15, out=keep.view(-1))
    return keep, 2**16 / (2**16 - threshold)
