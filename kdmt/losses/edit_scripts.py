"""Edit scripts between batches of sentences: the deletions and insertions of an expert (Gu et al. 2019).

If only deletions and insertions are allowed, the shortest script keeps a longest common subsequence. Tables are filled
one row at a time for the whole batch: within a row, the dependence on the left neighbour is a running maximum or
minimum.

Shapes: B batch, N tokens of a hypothesis, M tokens of a reference, W tokens of an edited sentence.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def common_subsequence(hyp_BN: Tensor, ref_BM: Tensor, *, hyp_lengths_B: Tensor, ref_lengths_B: Tensor) -> Tensor:
    """Return the index of the reference token that matches each hypothesis token: int64 [B, N].

    The matches form a longest common subsequence. Tokens outside it have -1 and are to be deleted. If there are several
    such subsequences, the one whose tokens come last is chosen. First and last tokens that are equal on both sides (<s>
    and </s>) are always in it.
    """
    rows_BNM = _lcs_table(hyp_BN, ref_BM)
    beyond = hyp_BN.size(1)  # extra column, removed at the end
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
    """Return the length of the longest common subsequence of the first i and the first j tokens: [B, N + 1, M + 1]."""
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
    """Return the smallest number of insertions, deletions and substitutions between two sentences: int64 [B]."""
    columns_M = torch.arange(ref_BM.size(1) + 1, device=ref_BM.device)
    row_BM = columns_M.expand(len(ref_BM), -1)
    found_B = row_BM.gather(1, ref_lengths_B[:, None])[:, 0]
    for place in range(hyp_BN.size(1)):
        other_BM = (hyp_BN[:, place, None] != ref_BM).long()
        through_BM = torch.cat([row_BM[:, :1] + 1, torch.minimum(row_BM[:, 1:] + 1, row_BM[:, :-1] + other_BM)], dim=1)
        row_BM = (through_BM - columns_M).cummin(1).values + columns_M  # each step to the right is an insertion
        ends_B = row_BM.gather(1, ref_lengths_B[:, None])[:, 0]
        found_B = torch.where(hyp_lengths_B == place + 1, ends_B, found_B)
    return found_B


def missing_between(partner_BN: Tensor, *, hyp_lengths_B: Tensor) -> Tensor:
    """Return the number of reference tokens that are missing after each token except the last.

    The result is int64 [B, N - 1], 0 beyond the end of a hypothesis.

    Args:
        partner_BN: index of the reference token that matches each hypothesis token, as `common_subsequence` returns it.
            Every hypothesis token, <s> and </s> included, must have a match.
        hyp_lengths_B: number of tokens of each hypothesis.
    """
    counts_BN = partner_BN[:, 1:] - partner_BN[:, :-1] - 1
    inside_BN = torch.arange(1, partner_BN.size(1), device=partner_BN.device) < hyp_lengths_B[:, None]
    return counts_BN.masked_fill(~inside_BN, 0)


def spread(
    tokens_BN: Tensor, counts_BN: Tensor, *, lengths_B: Tensor, fill: int, pad: int, width: int | None = None
) -> Tensor:
    """Return the sentences with `counts_BN` copies of `fill` after each token except the last: [B, W].

    Args:
        counts_BN: int64 [B, N - 1], 0 beyond a sentence.
        lengths_B: number of tokens of each sentence, at least 1.
        width: W, the largest number of tokens afterwards, if it is known on the host.
    """
    columns_N = torch.arange(tokens_BN.size(1), device=tokens_BN.device)
    shift_BN = torch.cat([torch.zeros_like(counts_BN[:, :1]), counts_BN.cumsum(1)], dim=1)
    after_B = lengths_B + counts_BN.sum(1)
    width = int(after_B.max()) if width is None else width
    beyond_BN = columns_N >= lengths_B[:, None]
    index_BN = (columns_N + shift_BN).masked_fill(beyond_BN, width)  # extra column, removed at the end
    inside_BW = torch.arange(width + 1, device=tokens_BN.device) < after_B[:, None]
    blank_BW = torch.full_like(inside_BW, fill, dtype=tokens_BN.dtype).masked_fill_(~inside_BW, pad)
    return blank_BW.scatter(1, index_BN, tokens_BN)[:, :-1]


def opened(counts_BN: Tensor, *, lengths_B: Tensor, width: int | None = None) -> Tensor:
    """Return where `spread` with the same `width` puts `fill`: bool [B, W].

    This cannot be read from the tokens, since a sentence may contain `fill` itself.
    """
    columns_N = torch.arange(counts_BN.size(1) + 1, device=counts_BN.device)
    marks_BN = (columns_N < lengths_B[:, None]).long()
    return spread(marks_BN, counts_BN, lengths_B=lengths_B, fill=0, pad=1, width=width).eq(0)


def compact(values_BN: Tensor, keep_BN: Tensor, *, pad: float, width: int | None = None) -> Tensor:
    """Return the kept values, moved to the left: [B, W].

    Args:
        width: W, the largest number of kept values of a row, if it is known on the host.
    """
    counts_B = keep_BN.sum(1)
    order_BN = (~keep_BN).long().argsort(dim=1, stable=True)
    columns_N = torch.arange(values_BN.size(1), device=values_BN.device)
    moved_BN = values_BN.gather(1, order_BN).masked_fill(columns_N >= counts_B[:, None], pad)
    return moved_BN[:, : int(counts_B.max()) if width is None else width]
