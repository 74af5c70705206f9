"""Transitions between the vertices of a directed acyclic decoder (Huang et al. 2022, DA-Transformer, section 3).

Shapes: B batch, L vertices, D model width, H heads, C = D / H.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdmt.models.attention import at_least_float32, split_heads

_NEVER = -1e9  # a logit


class LinkHead(nn.Module):
    """Mixture of attention distributions over the later vertices.

    Queries, keys and the gate, which gives the weights of the heads, are computed from the features of a vertex and its
    position.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(2 * dim, dim)
        self.key = nn.Linear(2 * dim, dim)
        self.gate = nn.Linear(2 * dim, heads)

    def forward(self, features_BLD: Tensor, positions_LD: Tensor, keep_BL: Tensor) -> Tensor:
        """Return the natural log-probabilities of the second vertex after the first, [B, L, L].

        They are -inf where the second vertex is not later or not real, and for the last vertex everywhere.
        """
        placed = torch.cat([features_BLD, positions_LD.expand_as(features_BLD)], dim=-1)
        query, key = (split_heads(project(placed), self.heads) for project in (self.query, self.key))
        scores_BHLL = at_least_float32(query @ key.transpose(2, 3) / math.sqrt(query.size(-1)))
        size = keep_BL.size(1)
        allowed_BLL = torch.ones(size, size, dtype=torch.bool, device=keep_BL.device).triu(1) & keep_BL[:, None, :]
        # a finite number, since the gradient of a softmax over -inf only is NaN
        masked_BHLL = scores_BHLL.masked_fill(~allowed_BLL[:, None], _NEVER)
        gates_BHL1 = at_least_float32(self.gate(placed)).log_softmax(-1).transpose(1, 2)[:, :, :, None]
        return (masked_BHLL.log_softmax(-1) + gates_BHL1).logsumexp(1).masked_fill(~allowed_BLL, -torch.inf)
