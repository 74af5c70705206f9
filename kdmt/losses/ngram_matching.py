"""Similarity between a target and the outputs of a non-autoregressive decoder, by their expected n-grams.

Both functions compare the number of times n_g that an n-gram g occurs in the target with the number of times C_g that
it occurs in an output, in expectation over all paths and all tokens. A match is min(C_g, n_g). This is an upper bound
of the expected number of matches, E min(count, n_g), which has no closed form; all other quantities are exact.

CTC (Shao & Feng 2022, NMLA). Positions are independent, with probabilities p_i. In a path, two neighbouring tokens of
the output are the last position i of a token and the first position j of the next token, with blanks in between. For
two different tokens each such pair of positions counts; for twice the same token there must be at least one blank:

    C(a, b) = sum_{i < j} p_i(a) p_j(b) prod_{i < l < j} p_l(blank)      (a = b: i + 1 < j)
    C(a)    = sum_i p_i(a) (1 - p_{i+1}(a))                              (the last position of each repetition)
    E length = sum_a C(a),   E bigrams = E length - 1 + P(empty output)

The similarity is the F-measure 2 sum_g min(C_g, n_g) / (E n-grams + n-grams of the target). The paper writes the
denominator of bigrams as E length + len(y) - 2; P(empty output) makes it exact.

Directed acyclic decoder (Ma et al. 2023, FA-DAT). A path goes from the first vertex to the last one. r(v) is the
probability that a path passes vertex v, and E(u, v) that of the link from u to v:

    r(v) = [v is the first] + sum_u r(u) E(u, v)
    C_g  = sum_{v_1 < ... < v_n} r(v_1) P(g_1 | v_1) prod_k E(v_k, v_{k+1}) P(g_{k+1} | v_{k+1})
    E length = sum_v r(v),   E n-grams = sum of r E^{n-1}

The similarity is the clipped precision times the brevity penalty of BLEU,

    sum_g min(C_g, n_g) / E n-grams  *  min(1, exp(1 - len(y) / E length))

Only the probabilities of the target tokens and of the blank are needed, and for the length of a CTC output the overlap
of neighbouring distributions (`kdmt.losses.gathered`).

Shapes: B batch, L output positions or vertices, T target tokens, G = T - n + 1 n-grams of the target.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def ctc_ngram_similarity(
    blank_BL: Tensor,
    match_BLT: Tensor,
    overlap_BL: Tensor,
    tgt_tokens_BT: Tensor,
    *,
    lengths_B: Tensor,
    tgt_lengths_B: Tensor,
    order: int = 2,
) -> Tensor:
    """Return the F-measure of expected n-grams of a CTC output, 0 to 1: [B]; 0 for a target of fewer than n tokens.

    Args:
        blank_BL: log-probability of the blank at each position.
        match_BLT: log-probability of each target token at each position.
        overlap_BL: sum over all tokens but the blank of p_i(v) p_{i+1}(v).
        tgt_tokens_BT: int64; the values in the padding do not matter.
        lengths_B: number of positions of each output; values beyond them are ignored.
        tgt_lengths_B: number of tokens of each target.
        order: n, 1 or 2.
    """
    inside_BL = _inside(lengths_B, blank_BL.size(1))
    probs_BLT = match_BLT.masked_fill(~inside_BL[:, :, None], -torch.inf).exp()
    blank_BL = blank_BL.masked_fill(~inside_BL, 0.0)
    if order == 1:
        counts_BG = (probs_BLT * (1.0 - F.pad(probs_BLT[:, 1:], (0, 0, 0, 1)))).sum(1)
    else:
        counts_BG = _ctc_bigram_counts(blank_BL, probs_BLT, tgt_tokens_BT)
    overlap_BL = overlap_BL.masked_fill(~_inside(lengths_B - 1, blank_BL.size(1)), 0.0)
    expected_B = -torch.expm1(blank_BL).sum(1) - overlap_BL.sum(1)
    if order == 2:
        expected_B = expected_B + torch.expm1(blank_BL.sum(1))
    matched_B, ngrams_B = _matched(counts_BG, tgt_tokens_BT, tgt_lengths_B, order)
    return 2.0 * matched_B / (expected_B + ngrams_B.clamp_min(1))


def dag_ngram_similarity(
    match_BTL: Tensor,
    links_BLL: Tensor,
    tgt_tokens_BT: Tensor,
    *,
    tgt_lengths_B: Tensor,
    vertices_B: Tensor,
    order: int = 2,
) -> Tensor:
    """Return clipped n-gram precision times brevity penalty of a directed acyclic decoder, 0 to 1: [B].

    It is 0 for a target of fewer than n tokens, and for a decoder of fewer than n vertices.

    Args:
        match_BTL: log-probability of each target token at each vertex.
        links_BLL: log-probability of the second vertex after the first, -inf where it is not later.
        tgt_tokens_BT: int64; the values in the padding do not matter.
        tgt_lengths_B: number of tokens of each target.
        vertices_B: number of vertices of each sentence; values beyond them are ignored.
        order: n, at least 1.
    """
    inside_BL = _inside(vertices_B, links_BLL.size(1))
    steps_BLL = links_BLL.masked_fill(~(inside_BL[:, :, None] & inside_BL[:, None]), -torch.inf).exp()
    probs_BTL = match_BTL.masked_fill(~inside_BL[:, None], -torch.inf).exp()
    passing_BL = _passing(steps_BLL)
    expected_BL = passing_BL
    ngrams = max(probs_BTL.size(1) - order + 1, 0)
    counts_BGL = passing_BL[:, None] * probs_BTL[:, :ngrams]
    for later in range(1, order):
        expected_BL = torch.bmm(expected_BL[:, None], steps_BLL)[:, 0]
        counts_BGL = torch.bmm(counts_BGL, steps_BLL) * probs_BTL[:, later : later + ngrams]
    matched_B, _ = _matched(counts_BGL.sum(2), tgt_tokens_BT, tgt_lengths_B, order)
    expected_B = expected_BL.sum(1)
    has_ngrams_B = expected_B > 0.0
    precision_B = torch.where(has_ngrams_B, matched_B / torch.where(has_ngrams_B, expected_B, 1.0), 0.0)
    return precision_B * (1.0 - tgt_lengths_B / passing_BL.sum(1)).clamp_max(0.0).exp()


def _ctc_bigram_counts(blank_BL: Tensor, probs_BLT: Tensor, tokens_BT: Tensor) -> Tensor:
    """Return the expected number of times that each bigram of the target occurs in the output, [B, T - 1]."""
    gaps_BLL = _blanks_between(blank_BL).to(probs_BLT.dtype)
    before_BLT = torch.bmm(gaps_BLL, probs_BLT[:, :, :-1])  # the first token, then only blanks up to the position
    # the same, with at least one blank
    apart_BLT = F.pad((blank_BL.exp()[:, :, None] * before_BLT)[:, :-1], (0, 0, 1, 0))
    same_BG = tokens_BT[:, 1:] == tokens_BT[:, :-1]
    return (torch.where(same_BG[:, None], apart_BLT, before_BLT) * probs_BLT[:, :, 1:]).sum(1)


def _blanks_between(blank_BL: Tensor) -> Tensor:
    """Return the probability that all positions between j and i < j are blanks, at [j, i]; 0 elsewhere: [B, L, L].

    The logarithms are differences of float64 sums over up to L positions.
    """
    through_BL = blank_BL.double().cumsum(1)
    before_BL = F.pad(through_BL[:, :-1], (1, 0))
    logs_BLL = (before_BL[:, :, None] - through_BL[:, None]).to(blank_BL.dtype)
    earlier_LL = torch.ones(logs_BLL.shape[1:], dtype=torch.bool, device=logs_BLL.device).tril(-1)
    return logs_BLL.masked_fill(~earlier_LL, -torch.inf).exp()


def _passing(steps_BLL: Tensor) -> Tensor:
    """Return the probability that a path passes each vertex, r = e_1 (I - E)^-1: [B, L]."""
    start_BL1 = torch.zeros_like(steps_BLL[:, :, :1])
    start_BL1[:, 0] = 1.0
    return torch.linalg.solve_triangular(-steps_BLL.transpose(1, 2), start_BL1, upper=False, unitriangular=True)[
        :, :, 0
    ]


def _matched(counts_BG: Tensor, tokens_BT: Tensor, lengths_B: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Return the sum over the n-grams g of each target of min(C_g, n_g), and the number of n-grams: [B] each.

    The second is int64. An n-gram that occurs n_g times has n_g columns, each of which contributes min(C_g / n_g, 1).

    Args:
        counts_BG: expected number of times of the n-gram that begins at each token of the target.
    """
    ngrams_B = (lengths_B - order + 1).clamp_min(0)
    width = counts_BG.size(1)
    valid_BG = _inside(ngrams_B, width)
    same_BTT = tokens_BT[:, :, None] == tokens_BT[:, None]
    equal_BGG = valid_BG[:, None]
    for later in range(order):
        equal_BGG = equal_BGG & same_BTT[:, later : later + width, later : later + width]
    times_BG = equal_BGG.sum(2).clamp_min(1)
    return torch.where(valid_BG, (counts_BG / times_BG).clamp_max(1.0), 0.0).sum(1), ngrams_B


def _inside(lengths_B: Tensor, width: int) -> Tensor:
    """Return a mask that is True within each length: bool [B, width]."""
    return torch.arange(width, device=lengths_B.device) < lengths_B[:, None]
