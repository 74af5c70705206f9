"""Edit scripts between batches of sentences: what an expert would delete and insert (Gu et al. 2019).

With deletions and insertions alone the fewest edits keep a longest common subsequence. Tables are filled a row at a
time for the whole batch: within a row, what comes from the left is a running maximum or minimum.

Shapes: B batch, N tokens of a hypothesis, M tokens of a reference, W of what becomes of it.
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
    beyond = hyp_BN.size(1)  # a column that is cut off
    partner_BN = torch.full((len(hyp_BN), beyond + 1), -1, device=hyp_BN.device)
    i_B, j_B = hyp_lengths_B.clone(), ref_lengths_B.clone()
    batch_B = torch.arange(len(hyp_BN), device=hyp_BN.device)
    for _ in range(hyp_BN.size(1) + ref_BM.size(1)):
        inside_B = (i_B > 0) & (j_B > 0)
        before_i, before_j = (i_B - 1).clamp_min(0), (j_B - 1).clamp_min(0)
        same_B = inside_B & (hyp_BN[batch_B, before_i] == ref_BM[batch_B, before_j])
        partner_BN.scatter_(1, torch.where(same_B, before_i, beyond)[:, None], before_j[:, None])
        here_B = rows_BNM[batch_B, i_B, j_B]
        up_B = inside_B & ~same_B & (rows_BNM[batch_B, before_i, j_B] == here_B)
        i_B = torch.where(same_B | up_B, before_i, i_B)
        j_B = torch.where(same_B | (inside_B & ~up_B), before_j, j_B)
    return partner_BN[:, :beyond]


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


def missing_between(partner_BN: Tensor, *, hyp_lengths_B: Tensor) -> Tensor:
    """How many reference tokens are missing after each token but the last: int64 [B, N - 1], 0 beyond a hypothesis.

    Args:
        partner_BN: the reference token that each hypothesis token stands for, all of them for some (what
            `common_subsequence` says of a hypothesis without superfluous tokens, <s> and </s> among them).
    """
    counts_BN = partner_BN[:, 1:] - partner_BN[:, :-1] - 1
    inside_BN = torch.arange(1, partner_BN.size(1), device=partner_BN.device) < hyp_lengths_B[:, None]
    return counts_BN.masked_fill(~inside_BN, 0)


def spread(tokens_BN: Tensor, counts_BN: Tensor, *, lengths_B: Tensor, fill: int, pad: int) -> Tensor:
    """Tokens moved apart, with so many times `fill` after each but the last: [B, W].

    Args:
        counts_BN: int64 [B, N - 1], 0 beyond a sentence.
        lengths_B: tokens of each sentence, at least 1.
    """
    columns_N = torch.arange(tokens_BN.size(1), device=tokens_BN.device)
    shift_BN = torch.cat([torch.zeros_like(counts_BN[:, :1]), counts_BN.cumsum(1)], dim=1)
    after_B = lengths_B + counts_BN.sum(1)
    width = int(after_B.max())
    beyond_BN = columns_N >= lengths_B[:, None]
    places_BN = (columns_N + shift_BN).masked_fill(beyond_BN, width)  # a column that is cut off
    inside_BW = torch.arange(width + 1, device=tokens_BN.device) < after_B[:, None]
    blank_BW = torch.full_like(inside_BW, fill, dtype=tokens_BN.dtype).masked_fill_(~inside_BW, pad)
    return blank_BW.scatter(1, places_BN, tokens_BN)[:, :-1]


def opened(counts_BN: Tensor, *, lengths_B: Tensor) -> Tensor:
    """Where `spread` puts `fill`: bool [B, W]. Tokens do not tell, since a sentence may have `fill` itself."""
    columns_N = torch.arange(counts_BN.size(1) + 1, device=counts_BN.device)
    marks_BN = (columns_N < lengths_B[:, None]).long()
    return spread(marks_BN, counts_BN, lengths_B=lengths_B, fill=0, pad=1).eq(0)


def compact(values_BN: Tensor, keep_BN: Tensor, *, pad: float) -> Tensor:
    """What is kept, moved to the left: [B, W]."""
    counts_B = keep_BN.sum(1)
    order_BN = (~keep_BN).long().argsort(dim=1, stable=True)
    columns_N = torch.arange(values_BN.size(1), device=values_BN.device)
    moved_BN = values_BN.gather(1, order_BN).masked_fill(columns_N >= counts_B[:, None], pad)
    return moved_BN[:, : int(counts_B.max())]
