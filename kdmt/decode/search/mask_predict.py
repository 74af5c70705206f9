"""Iterative prediction of a sentence of given length: Mask-Predict and iterative refinement.

Finished sentences are removed from the batch: an iteration reads only the rows that are active.

Shapes: N candidates, A of them active, T target length with </s>.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdmt.decode.search.transfers import to_device, to_host
from kdmt.types import EOS, PAD, UNK

# (tokens [A, T] with <unk> as the mask; rows int64 [A], indices of the candidates)
# -> the most probable token at each position and its log-probability, [A, T] each
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass
class Filled:
    """Current state of the candidates.

    Attributes:
        tokens_NT: int64, padded.
        log_probs_NT: log-probability of each word when it was last predicted; 0 at positions without a word.
        steps_N: int64, number of decoder passes so far.
    """

    tokens_NT: Tensor
    log_probs_NT: Tensor
    steps_N: Tensor

    @classmethod
    def unknown(cls, lengths_N: Tensor, longest: int | None = None) -> Filled:
        """Return candidates of the given lengths whose words are all masked.

        Args:
            longest: the largest length, if it is known on the host.
        """
        longest = int(lengths_N.max()) if longest is None else longest
        tokens_NT = torch.full((len(lengths_N), longest), UNK, device=lengths_N.device)
        tokens_NT.masked_fill_(torch.arange(tokens_NT.size(1), device=lengths_N.device) >= lengths_N[:, None], PAD)
        tokens_NT.scatter_(1, lengths_N[:, None] - 1, EOS)
        log_probs_NT = torch.zeros(tokens_NT.shape, device=lengths_N.device)
        return cls(tokens_NT, log_probs_NT, torch.zeros_like(lengths_N))


def mask_predict(predict: Predict, lengths_N: Tensor, *, iterations: int, rewrites: bool = False) -> Filled:
    """Predict all words in parallel; then repeatedly mask the words of lowest confidence and predict them again.

    In iteration t of I, counted from 0, int(words * (I - t) / I) words are masked; of words with equal confidence,
    those on the left. The confidence of a word is that of the iteration in which it was last predicted (Ghazvininejad
    et al. 2019, section 3.2). A sentence is finished once no more words are to be masked.

    Args:
        predict: function that predicts the tokens of masked sentences.
        lengths_N: number of tokens of each candidate, </s> included.
        iterations: I, the number of iterations.
        rewrites: whether words that are not masked are predicted again as well, by a model trained to correct them
            (Huang et al. 2022, CMLMC).
    """
    (lengths,) = to_host(lengths_N)
    filled = Filled.unknown(lengths_N, int(lengths.max()))
    words_NT = filled.tokens_NT.eq(UNK)
    rows_A = torch.empty(0, dtype=torch.int64)
    for iteration in range(iterations):
        counts_N = (lengths_N - 1) * (iterations - iteration) // iterations
        active = np.flatnonzero((lengths - 1) * (iterations - iteration) // iterations)
        if not len(active):
            break
        if iteration == 0 or len(active) < len(rows_A):  # once finished, a sentence remains so
            rows_A = to_device(torch.from_numpy(active), lengths_N.device)
        confidence_AT = filled.log_probs_NT[rows_A].masked_fill(~words_NT[rows_A], torch.inf)
        hidden_AT = _least(confidence_AT, counts_N[rows_A])
        written_AT = words_NT[rows_A] if rewrites else hidden_AT
        _write(filled, rows_A, written_AT, *predict(filled.tokens_NT[rows_A].masked_fill(hidden_AT, UNK), rows_A))
    return filled


def refine(predict: Predict, lengths_N: Tensor, *, iterations: int) -> Filled:
    """Predict all words, then predict all of them again from the last draft until it does not change (Lee et al. 2018).

    Args:
        predict: function that predicts the tokens of a draft.
        lengths_N: number of tokens of each candidate, </s> included.
        iterations: maximum number of iterations.
    """
    filled = Filled.unknown(lengths_N)
    words_NT = filled.tokens_NT.eq(UNK)
    rows_A = torch.arange(len(lengths_N), device=lengths_N.device)
    for iteration in range(iterations):
        before_AT = filled.tokens_NT[rows_A]
        _write(filled, rows_A, words_NT[rows_A], *predict(before_AT, rows_A))
        if iteration == iterations - 1:
            break
        (changed_A,) = to_host(filled.tokens_NT[rows_A].ne(before_AT).any(1))
        if not changed_A.any():
            break
        if not changed_A.all():
            rows_A = rows_A.index_select(0, to_device(torch.from_numpy(np.flatnonzero(changed_A)), rows_A.device))
    return filled


def _write(filled: Filled, rows_A: Tensor, where_AT: Tensor, tokens_AT: Tensor, log_probs_AT: Tensor) -> None:
    """Write predicted tokens and their log-probabilities at some positions of some rows, and count the pass."""
    filled.tokens_NT[rows_A] = torch.where(where_AT, tokens_AT, filled.tokens_NT[rows_A])
    said_AT = log_probs_AT.to(filled.log_probs_NT.dtype)
    filled.log_probs_NT[rows_A] = torch.where(where_AT, said_AT, filled.log_probs_NT[rows_A])
    filled.steps_N[rows_A] += 1


def _least(values_AT: Tensor, counts_A: Tensor) -> Tensor:
    """Return a mask of the `counts_A` lowest values of each row, of equal values those on the left: bool [A, T]."""
    order_AT = values_AT.argsort(dim=1, stable=True)
    first_AT = torch.arange(values_AT.size(1), device=values_AT.device) < counts_A[:, None]
    return torch.zeros_like(first_AT).scatter(1, order_AT, first_AT)
