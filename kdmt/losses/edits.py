"""Edit scripts between batches of sentences: what an expert would delete and insert (Gu et al. 2019).

With deletions and insertions alone the fewest edits keep a longest common subsequence. Tables are filled a row at a
time for the whole batch: within a row, what comes from the left is a running maximum or minimum.

Shapes: B batch, N tokens of a hypothesis, M tokens of a reference.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def common_subsequence(hyp_BN: Tensor, ref_BM: Tensor, *, hyp_lengths_B: Tensor, ref_lengths_B: Tensor) -> Tensor:
    """Which reference token each hypothesis token stands for in a longest common subsequence: int64 [B, N].

    -1 for tokens that are in none, and are to be deleted. Of several subsequences the one is taken whose tokens come
    last; first and last tokens that are equal on both sides (<s> and </s>) are always in it.
    """
    rows_BNM = _lcs_table(hyp_BN, ref_BM)
    partner_BN = torch.full_like(hyp_BN, -1)
    i_B, j_B = hyp_lengths_B.clone(), ref_lengths_B.clone()
    batch_B = torch.arange(len(hyp_BN), device=hyp_BN.device)
    for _ in range(hyp_BN.size(1) + ref_BM.size(1)):
        inside_B = (i_B > 0) & (j_B > 0)
        before_i, before_j = (i_B - 1).clamp_min(0), (j_B - 1).clamp_min(0)
        same_B = inside_B & (hyp_BN[batch_B, before_i] == ref_BM[batch_B, before_j])
        partner_BN[batch_B[same_B], before_i[same_B]] = before_j[same_B]
        here_B = rows_BNM[batch_B, i_B, j_B]
        up_B = inside_B & ~same_B & (rows_BNM[batch_B, before_i, j_B] == here_B)
        i_B = torch.where(same_B | up_B, before_i, i_B)
        j_B = torch.where(same_B | (inside_B & ~up_B), before_j, j_B)
    return partner_BN


def _lcs_table(hyp_BN: Tensor, ref_BM: Tensor) -> Tensor:
    """Length of the longest common subsequence of the first i and the first j tokens: [B, N + 1, M + 1]."""
    row_BM = torch.zeros(len(ref_BM), ref_BM.size(1) + 1, dtype=torch.int64, device=ref_BM.device)
    rows = [row_BM]
    for place in range(hyp_BN.size(1)):
        extended_BM = row_BM.clone()
        same_BM = hyp_BN[:, place, None] == ref_BM
        extended_BM[:, 1:] = torch.maximum(row_BM[:, 1:], row_BM[:, :-1] + same_BM)
        row_BM = extended_BM.cummax(1).values
        rows.append(row_BM)
    return torch.stack(rows, dim=1)


@torch.no_grad()
def levenshtein_distance(hyp_BN: Tensor, ref_BM: Tensor, *, hyp_lengths_B: Tensor, ref_lengths_B: Tensor) -> Tensor:
    """The fewest insertions, deletions and substitutions that make one sentence the other: int64 [B]."""
    columns_M = torch.arange(ref_BM.size(1) + 1, device=ref_BM.device)
    row_BM = columns_M.expand(len(ref_BM), -1)
    found_B = row_BM.gather(1, ref_lengths_B[:, None])[:, 0]
    for place in range(hyp_BN.size(1)):
        other_BM = (hyp_BN[:, place, None] != ref_BM).long()
        through_BM = torch.cat([row_BM[:, :1] + 1, torch.minimum(row_BM[:, 1:] + 1, row_BM[:, :-1] + other_BM)], dim=1)
        row_BM = (through_BM - columns_M).cummin(1).values + columns_M  # an insertion for each step to the right
        ends_B = row_BM.gather(1, ref_lengths_B[:, None])[:, 0]
        found_B = torch.where(hyp_lengths_B == place + 1, ends_B, found_B)
    return found_B
