"""Scores of neighbouring tokens, of low rank (Sun et al. 2019, NAT-CRF, section 4.2).

Shapes: K candidates of a position, R rank.
"""

from __future__ import annotations

from torch import Tensor, nn


class Transitions(nn.Module):
    """M = E1 E2^T over the vocabulary; the whole matrix is never computed."""

    def __init__(self, vocab_size: int, rank: int) -> None:
        super().__init__()
        self.first = nn.Embedding(vocab_size, rank)
        self.second = nn.Embedding(vocab_size, rank)
        for each in (self.first, self.second):
            nn.init.normal_(each.weight, std=rank**-0.5)

    def forward(self, ids_BTK: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of E1 and E2 for the candidates of each position: [B, T, K, R] each."""
        return self.first(ids_BTK), self.second(ids_BTK)
