"""Heads that predict the edits of a draft (Gu et al. 2019, Levenshtein Transformer, section 3.1).

Shapes: B batch, N tokens of a draft, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOST_INSERTED = 255  # largest number of placeholders between two neighbours in one step


class EditHeads(nn.Module):
    """Prediction of the tokens to delete, and of the number of missing tokens between neighbours."""

    def __init__(self, dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.deletion = nn.Linear(dim, 2, bias=bias)
        self.placeholders = nn.Linear(2 * dim, MOST_INSERTED + 1, bias=bias)

    def deleted(self, features_BND: Tensor) -> Tensor:
        """Return the logits of keeping and deleting each token: [B, N, 2]."""
        return self.deletion(features_BND)

    def missing(self, features_BND: Tensor) -> Tensor:
        """Return the logits of 0, 1, ... missing tokens after each token except the last: [B, N - 1, 256]."""
        return self.placeholders(neighbours(features_BND))


def neighbours(features_BND: Tensor) -> Tensor:
    """Concatenate the features of each two neighbours: [B, N - 1, 2 D]."""
    return torch.cat([features_BND[:, :-1], features_BND[:, 1:]], dim=-1)
