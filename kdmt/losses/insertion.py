"""Targets for insertions between the tokens of a draft (Stern et al. 2019, Insertion Transformer).

Between two neighbouring tokens there is a slot. Each slot has a distribution over tokens and "nothing", which is </s>.
The target of a slot is the span of the reference that is missing there. The middle of the span has the largest weight:
token i of a span from a to b has the weight exp(-|i - (a + b) / 2| / t), normalised to 1 over the span (section 4.2,
balanced binary tree). The target of an empty span is "nothing".

Shapes: B batch, N tokens of a draft, N - 1 slots, M tokens of the reference, K tokens of the longest span.
"""

from __future__ import annotations

import torch
from torch import Tensor


def missing_spans(
    reference_BM: Tensor, partner_BN: Tensor, counts_BN: Tensor, *, nothing: int, temperature: float, width: int
) -> tuple[Tensor, Tensor]:
    """Return the target tokens of each slot, int64 [B, N - 1, K], and their weights, [B, N - 1, K].

    The weights of a slot sum to 1.

    Args:
        reference_BM: int64 ids of the reference.
        partner_BN: index of the reference token that matches each token of the draft.
        counts_BN: length of the span of each slot, [B, N - 1] (`kdmt.losses.edit_scripts.missing_between`).
        nothing: id of </s>.
        temperature: t; 0.0 is not allowed, infinity gives all tokens of the span the same weight.
        width: K, the number of tokens of the longest span, at least 1.
    """
    columns_K = torch.arange(width, device=reference_BM.device)
    index_BNK = (partner_BN[:, :-1, None] + 1 + columns_K).clamp(0, reference_BM.size(1) - 1)
    tokens_BNK = reference_BM[:, None].expand(-1, counts_BN.size(1), -1).gather(2, index_BNK)
    empty_BN1 = counts_BN.eq(0)[:, :, None]
    inside_BNK = columns_K < counts_BN.clamp_min(1)[:, :, None]
    distance_BNK = (columns_K - (counts_BN[:, :, None] - 1) / 2).abs()
    weights_BNK = (-distance_BNK / temperature).masked_fill(~inside_BNK, -torch.inf).softmax(-1)
    return tokens_BNK.masked_fill(empty_BN1, nothing), weights_BNK
