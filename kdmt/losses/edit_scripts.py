"""Edit scripts between batches of sentences: the deletions and insertions of an expert (Gu et al. 2019).

If only deletions and insertions are allowed, the shortest script keeps a longest common subsequence. Tables are filled
one row at a time for the whole batch: within a row, the dependence on the left neighbour is a running maximum or
minimum. A path through a table is read one row at a time as well.

Shapes: B batch, N tokens of a hypothesis, M tokens of a reference, W tokens of an edited sentence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def common_subsequence(hyp_BN: Tensor, ref_BM: Tensor, *, hyp_lengths_B: Tensor, ref_lengths_B: Tensor) -> Tensor:
    """Return the index of the reference token that matches each hypothesis token: int64 [B, N].

    The matches form a longest common subsequence. Tokens outside it have -1 and are to be deleted. If there are several
    such subsequences, the one whose tokens come last is chosen. First and last tokens that are equal on both sides (<s>
    and </s>) are always in it.
    """
    lengths_BNM = _lcs_table(hyp_BN, ref_BM)
    same_BNM = F.pad(hyp_BN[:, :, None] == ref_BM[:, None, :], (1, 0))
    # row i leaves column j of the table at the first column from j to the left where it matches or deletes token i
    leaves_BNM = same_BNM | (lengths_BNM[:, 1:] == lengths_BNM[:, :-1])
    columns_M = torch.arange(ref_BM.size(1) + 1, device=ref_BM.device)
    left_at_BNM = torch.where(leaves_BNM, columns_M, 0).cummax(2).values
    matches_BNM = same_BNM.gather(2, left_at_BNM)
    inside_BN = torch.arange(hyp_BN.size(1), device=hyp_BN.device) < hyp_lengths_B[:, None]
    after_BNM = torch.where(inside_BN[:, :, None], left_at_BNM - matches_BNM.long(), columns_M)
    column_B1 = ref_lengths_B[:, None]
    entered = []
    for after_BM in after_BNM.unbind(1)[::-1]:
        entered.append(column_B1)
        column_B1 = after_BM.gather(1, column_B1)
    entered_BN1 = torch.stack(entered[::-1], dim=1)
    left_at_BN, matches_BN = (table.gather(2, entered_BN1)[:, :, 0] for table in (left_at_BNM, matches_BNM))
    return torch.where(matches_BN & inside_BN, left_at_BN - 1, -1)


def _lcs_table(hyp_BN: Tensor, ref_BM: Tensor) -> Tensor:
    """Return the length of the longest common subsequence of the first i and the first j tokens: [B, N + 1, M + 1]."""
    batch, width = ref_BM.shape
    table_NBM = ref_BM.new_zeros(hyp_BN.size(1) + 1, batch, width + 1)
    same_NBM = (hyp_BN.t()[:, :, None] == ref_BM).long()
    extended_BM, index_BM = torch.empty_like(ref_BM), torch.empty_like(ref_BM)
    for row_BM, next_BM, same_BM in zip(table_NBM.unbind(), table_NBM.unbind()[1:], same_NBM.unbind(), strict=False):
        torch.add(row_BM[:, :-1], same_BM, out=extended_BM)
        torch.maximum(extended_BM, row_BM[:, 1:], out=extended_BM)
        torch.cummax(extended_BM, 1, out=(next_BM[:, 1:], index_BM))
    return table_NBM.transpose(0, 1)


@torch.no_grad()
def rightmost_match(hyp_BN: Tensor, ref_BM: Tensor, *, hyp_lengths_B: Tensor, ref_lengths_B: Tensor) -> Tensor:
    """Return the result of `common_subsequence` for hypotheses that are subsequences of their references: [B, N].

    Each token, from the last to the first, is matched with the last equal token of the reference before those that are
    matched already.
    """
    columns_M = torch.arange(ref_BM.size(1), device=ref_BM.device)
    end_B1, partners = ref_lengths_B[:, None], []
    for place in range(hyp_BN.size(1) - 1, -1, -1):
        free_BM = (hyp_BN[:, place, None] == ref_BM) & (columns_M < end_B1)
        partner_B1 = torch.where(free_BM, columns_M, -1).amax(1, keepdim=True)
        inside_B1 = place < hyp_lengths_B[:, None]
        partners.append(torch.where(inside_B1, partner_B1, -1))
        end_B1 = torch.where(inside_B1, partner_B1, end_B1)
    return torch.cat(partners[::-1], dim=1)


@torch.no_grad()
def levenshtein_distance(hyp_BN: Tensor, ref_BM: Tensor, *, hyp_lengths_B: Tensor, ref_lengths_B: Tensor) -> Tensor:
    """Return the smallest number of insertions, deletions and substitutions between two sentences: int64 [B]."""
    batch, width = ref_BM.shape
    # the table of distances minus i + j, so that a deletion or an insertion changes nothing
    table_NBM = ref_BM.new_zeros(hyp_BN.size(1) + 1, batch, width + 1)
    gains_NBM = (hyp_BN.t()[:, :, None] != ref_BM).long() - 2
    through_BM, index_BM = torch.empty_like(ref_BM), torch.empty_like(ref_BM)
    for row_BM, next_BM, gains_BM in zip(table_NBM.unbind(), table_NBM.unbind()[1:], gains_NBM.unbind(), strict=False):
        torch.add(row_BM[:, :-1], gains_BM, out=through_BM)
        torch.minimum(through_BM, row_BM[:, 1:], out=through_BM)
        torch.cummin(through_BM, 1, out=(next_BM[:, 1:], index_BM))
    ends_1BM = hyp_lengths_B[None, :, None].expand(1, -1, width + 1)
    ends_B1 = table_NBM.gather(0, ends_1BM)[0].gather(1, ref_lengths_B[:, None])
    return ends_B1[:, 0] + hyp_lengths_B + ref_lengths_B


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
        pad: value after the kept ones.
        width: number of columns, at least the largest number of kept values of a sentence (default: this number, for
            which the host waits if the values are on a GPU).
    """
    counts_B = keep_BN.sum(1)
    order_BN = (~keep_BN).long().argsort(dim=1, stable=True)
    columns_N = torch.arange(values_BN.size(1), device=values_BN.device)
    moved_BN = values_BN.gather(1, order_BN).masked_fill(columns_N >= counts_B[:, None], pad)
    return moved_BN[:, : int(counts_B.max()) if width is None else width]
