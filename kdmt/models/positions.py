"""Position embeddings with the numerics of fairseq and Marian.

Sinusoids are all sines, then all cosines. fairseq counts positions from pad + 1, Marian from 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal_table(num_positions: int, dim: int, *, first: int) -> Tensor:
    """Return sinusoids for positions first, first + 1, ...: float32 [num_positions, dim].

    Vaswani et al. 2017, section 3.5, in the order of tensor2tensor and fairseq: all sines, then all cosines, with
    frequencies spaced over half_dim - 1.
    """
    frequency = sinusoid_frequencies(dim)
    position = torch.arange(first, first + num_positions, dtype=torch.float32)
    angle = position[:, None] * frequency[None, :]
    table = torch.cat([angle.sin(), angle.cos()], dim=1)
    return nn.functional.pad(table, (0, dim - table.size(1)))


def sinusoid_frequencies(dim: int) -> Tensor:
    """Return the factors by which positions are multiplied in sinusoids: float32 [dim // 2]."""
    half_dim = dim // 2
    step = math.log(10000.0) / max(half_dim - 1, 1)
    return torch.exp(torch.arange(half_dim, dtype=torch.float32) * -step)


class SinusoidalPositions(nn.Module):
    """Fixed sinusoids; `forward(start, length)` returns positions start, ..., start+length-1: [length, D]."""

    table: Tensor

    def __init__(self, num_positions: int, dim: int, *, first: int) -> None:
        super().__init__()
        self.first = first
        self.register_buffer("table", sinusoidal_table(num_positions, dim, first=first), persistent=False)

    def forward(self, start: int, length: int) -> Tensor:
        return self.table[start : start + length]

    def at(self, position_N: Tensor) -> Tensor:
        """Return the sinusoids of any positions: [N, D]."""
        return self.table[position_N]


class LearnedPositions(nn.Module):
    """Learned embeddings, one row for each position. The rows up to `pad` exist, as in fairseq, and are never used."""

    def __init__(self, num_positions: int, dim: int, *, pad: int) -> None:
        super().__init__()
        self.first = pad + 1
        self.weight = nn.Parameter(torch.empty(self.first + num_positions, dim))
        nn.init.normal_(self.weight, mean=0.0, std=dim**-0.5)
        nn.init.zeros_(self.weight[pad])

    def forward(self, start: int, length: int) -> Tensor:
        return self.weight[self.first + start : self.first + start + length]

    def at(self, position_N: Tensor) -> Tensor:
        """Return the embeddings of any positions: [N, D]."""
        return nn.functional.embedding(position_N + self.first, self.weight)
