"""Filling in a sentence of known length, again and again: Mask-Predict and iterative refinement.

A sentence that is finished leaves: what is read in an iteration are the rows that are still at work.

Shapes: N candidates, A of them still at work, T target length with </s>.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdmt.types import EOS, PAD, UNK

# (tokens [A, T], <unk> where nothing is known; rows int64 [A] among the candidates)
# -> the most probable token of each position and its log-probability, [A, T] each
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass
class Filled:
    """Candidates as they stand.

    Attributes:
        tokens_NT: int64, padded.
        log_probs_NT: of each word when it was last written; 0 where there is no word.
        steps_N: int64, passes of the decoder so far.
    """

    tokens_NT: Tensor
    log_probs_NT: Tensor
    steps_N: Tensor

    @classmethod
    def unknown(cls, lengths_N: Tensor) -> Filled:
        """Nothing known of the words."""
        tokens_NT = torch.full((len(lengths_N), int(lengths_N.max())), UNK, device=lengths_N.device)
        tokens_NT.masked_fill_(torch.arange(tokens_NT.size(1), device=lengths_N.device) >= lengths_N[:, None], PAD)
        tokens_NT.scatter_(1, lengths_N[:, None] - 1, EOS)
        log_probs_NT = torch.zeros(tokens_NT.shape, device=lengths_N.device)
        return cls(tokens_NT, log_probs_NT, torch.zeros_like(lengths_N))


def mask_predict(predict: Predict, lengths_N: Tensor, *, iterations: int, rewrites: bool = False) -> Filled:
    """Fill in all words at once; then hide those of least confidence and fill them in anew.

    In iteration t of I, from 0, int(words * (I - t) / I) words are hidden; of equals those on the left. A word's
    confidence is that of the iteration it was last written in (Ghazvininejad et al. 2019, section 3.2). A sentence of
    which nothing more is to be hidden is finished.

    Args:
        lengths_N: tokens of each candidate, </s> among them.
        rewrites: whether words in sight are written anew as well, by a model that learnt to correct them (Huang et al.
            2022, CMLMC).
    """
    filled = Filled.unknown(lengths_N)
    words_NT = filled.tokens_NT.eq(UNK)
    for iteration in range(iterations):
        counts_N = (lengths_N - 1) * (iterations - iteration) // iterations
        rows_A = counts_N.nonzero()[:, 0]
        if not len(rows_A):
            break
        confidence_AT = filled.log_probs_NT[rows_A].masked_fill(~words_NT[rows_A], torch.inf)
        hidden_AT = _least(confidence_AT, counts_N[rows_A])
        written_AT = words_NT[rows_A] if rewrites else hidden_AT
        _write(filled, rows_A, written_AT, *predict(filled.tokens_NT[rows_A].masked_fill(hidden_AT, UNK), rows_A))
    return filled


def refine(predict: Predict, lengths_N: Tensor, *, iterations: int) -> Filled:
    """Write all words, then all of them again with the last draft in sight, until it stays as it is (Lee et al. 2018).

    Args:
        lengths_N: tokens of each candidate, </s> among them.
    """
    filled = Filled.unknown(lengths_N)
    words_NT = filled.tokens_NT.eq(UNK)
    rows_A = torch.arange(len(lengths_N), device=lengths_N.device)
    for _ in range(iterations):
        before_AT = filled.tokens_NT[rows_A]
        _write(filled, rows_A, words_NT[rows_A], *predict(before_AT, rows_A))
        rows_A = rows_A[filled.tokens_NT[rows_A].ne(before_AT).any(1)]
        if not len(rows_A):
            break
    return filled


def _write(filled: Filled, rows_A: Tensor, where_AT: Tensor, tokens_AT: Tensor, log_probs_AT: Tensor) -> None:
    """Put what was said into some places of some rows."""
    filled.tokens_NT[rows_A] = torch.where(where_AT, tokens_AT, filled.tokens_NT[rows_A])
    said_AT = log_probs_AT.to(filled.log_probs_NT.dtype)
    filled.log_probs_NT[rows_A] = torch.where(where_AT, said_AT, filled.log_probs_NT[rows_A])
    filled.steps_N[rows_A] += 1


def _least(values_AT: Tensor, counts_A: Tensor) -> Tensor:
    """The places of so many of the least values, of equals those on the left: bool [A, T]."""
    order_AT = values_AT.argsort(dim=1, stable=True)
    first_AT = torch.arange(values_AT.size(1), device=values_AT.device) < counts_A[:, None]
    return torch.zeros_like(first_AT).scatter(1, order_AT, first_AT)
