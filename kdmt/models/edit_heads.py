"""Heads that say how a draft is to be edited (Gu et al. 2019, Levenshtein Transformer, section 3.1).

Shapes: B batch, N tokens of a draft, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOST_INSERTED = 255  # placeholders between two neighbours, at one time


class EditHeads(nn.Module):
    """Which tokens are deleted, and how many are missing between neighbours."""

    def __init__(self, dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.deletion = nn.Linear(dim, 2, bias=bias)
        self.placeholders = nn.Linear(2 * dim, MOST_INSERTED + 1, bias=bias)

    def deleted(self, features_BND: Tensor) -> Tensor:
        """Logits of keeping and deleting a token: [B, N, 2]."""
        return self.deletion(features_BND)

    def missing(self, features_BND: Tensor) -> Tensor:
        """Logits of 0, 1, ... tokens missing after each but the last: [B, N - 1, 256]."""
        return self.placeholders(neighbours(features_BND))


def neighbours(features_BND: Tensor) -> Tensor:
    """Features of each two neighbours side by side: [B, N - 1, 2 D]."""
    return torch.cat([features_BND[:, :-1], features_BND[:, 1:]], dim=-1)
