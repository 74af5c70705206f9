"""Packing: the sentences of a batch one after another in a single row, instead of one padded row for each.

A packed row has a fixed number of positions, so that every batch has the same shape: a compiled model needs one
program, and a GPU's allocator needs one set of sizes. Attention stays inside each sentence by the sentences' limits
(`starts`), as in FlashAttention's interface for variable lengths.

The row ends with padding. The padding is divided into a fixed number of further sequences, none of them empty, so that
attention is defined at each position. Sequences of length 0 follow, up to a fixed number of sequences.

Shapes: B sentences, P sequences of padding, Q sequences in all (fixed), N positions of the row (fixed).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdmt.types import EOS, PAD, Packing

if TYPE_CHECKING:
    import torch

_SENTENCES = 1.5  # maximum number of sentences of a row, as a multiple of the mean number in full rows


@dataclass(frozen=True)
class PackingShape:
    """Sizes of all packed rows of a data set.

    Attributes:
        max_tokens: maximum number of real tokens of a row.
        max_length: length of the longest sentence of the data set; no sequence of padding is longer.
        max_sentences: maximum number of sentences of a row.
    """

    max_tokens: int
    max_length: int
    max_sentences: int

    @classmethod
    def of(cls, sizes: NDArray[np.integer[Any]], max_tokens: int) -> PackingShape:
        """Return the shape for sentences of these sizes, the longer side of each pair."""
        mean = float(sizes.mean(dtype=np.float64))
        return cls(max_tokens, int(sizes.max()), max_sentences=max(int(_SENTENCES * max_tokens / mean), 1))

    @property
    def num_paddings(self) -> int:
        """Number of sequences of padding, P; they can fill the whole row."""
        return -(-self.max_tokens // self.max_length) + 1

    @property
    def num_positions(self) -> int:
        """Number of positions of a row, N: `max_tokens` and at least one position for each sequence of padding."""
        return self.max_tokens + self.num_paddings

    @property
    def num_sequences(self) -> int:
        """Number of sequences of a row, Q."""
        return self.max_sentences + self.num_paddings


def pack(
    tokens_M: NDArray[np.int64], lengths_B: NDArray[np.int64], shape: PackingShape
) -> tuple[torch.Tensor, Packing]:
    """Return sentences in one row, int64 [1, N], and their limits.

    Args:
        tokens_M: tokens of the sentences, one sentence after another, without `<pad>`.
        lengths_B: number of tokens of each sentence.

    Raises:
        ValueError: if the sentences are too many or too long for the shape.
    """
    import torch

    num_tokens = len(tokens_M)
    if len(lengths_B) > shape.max_sentences or num_tokens > shape.max_tokens or lengths_B.max() > shape.max_length:
        raise ValueError(f"{len(lengths_B)} sentences of {num_tokens} tokens do not fit into {shape}")
    tokens_1N = np.full((1, shape.num_positions), PAD, dtype=np.int64)
    tokens_1N[0, :num_tokens] = tokens_M
    lengths_Q = np.zeros(shape.num_sequences, dtype=np.int64)
    lengths_Q[: len(lengths_B)] = lengths_B
    padding, parts = shape.num_positions - num_tokens, shape.num_paddings
    lengths_Q[len(lengths_B) : len(lengths_B) + parts] = padding // parts
    lengths_Q[len(lengths_B) : len(lengths_B) + padding % parts] += 1
    starts = np.concatenate(([0], np.cumsum(lengths_Q)))
    position_N = np.arange(shape.num_positions) - np.repeat(starts[:-1], lengths_Q)
    position_N[num_tokens:] = 0  # sequences of padding may be longer than a model has positions
    packing = Packing(
        starts=torch.from_numpy(starts.astype(np.int32)),
        position_N=torch.from_numpy(position_N),
        num_sentences=len(lengths_B),
        num_tokens=num_tokens,
        longest=int(lengths_B.max()),
        max_length=shape.max_length,
    )
    return torch.from_numpy(tokens_1N), packing


def shift_right(tokens_1N: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Return the decoder input of packed targets: each shifted right by one, with `</s>` first, int64 [1, N]."""
    import torch

    prev_tokens_1N = torch.full_like(tokens_1N, PAD)
    real = packing.num_tokens
    prev_tokens_1N[:, 1:real] = tokens_1N[:, : real - 1]
    prev_tokens_1N[:, :real].masked_fill_(packing.position_N[:real] == 0, EOS)
    return prev_tokens_1N


def packed_ends(
    src_sizes: NDArray[np.integer[Any]], tgt_sizes: NDArray[np.integer[Any]], shape: PackingShape
) -> list[int]:
    """Return the end of each batch of consecutive pairs, each as large as the shape allows on both sides."""
    sums = [np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))) for sizes in (src_sizes, tgt_sizes)]
    ends, start = list[int](), 0
    while start < len(src_sizes):
        limits = [int(np.searchsorted(total, total[start] + shape.max_tokens, side="right")) - 1 for total in sums]
        start = min(*limits, start + shape.max_sentences)
        ends.append(start)
    return ends
