"""Numbers of n-grams that texts share, from sorted arrays instead of dictionaries.

The k-th occurrence of an n-gram in a text has a *column*, which is the same in all texts. Two texts share an n-gram
min(a, b) times if it occurs a times in one and b times in the other, and this is the number of columns of the n-gram
that both have. Hence the matches of two texts are the product of two rows of zeros and ones, and the weighted mean of
the matches of a text over all texts is a sum of column weights, which takes one pass over the n-grams.

Shapes: T texts, S symbols of all texts (characters or words), M n-grams of one order, W columns, O orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CELLS = 1 << 22  # maximum size of a matrix of texts by columns: 16 MB


@dataclass(frozen=True)
class NgramColumns:
    """The n-grams of one order in T texts.

    Attributes:
        text_M: index of the text of each n-gram.
        column_M: column of each n-gram, from 0 to W - 1.
        num_columns: W.
        num_texts: T.
    """

    text_M: NDArray[np.int64]
    column_M: NDArray[np.int64]
    num_columns: int
    num_texts: int

    @property
    def totals_T(self) -> NDArray[np.int64]:
        """Return the number of n-grams of each text."""
        return np.bincount(self.text_M, minlength=self.num_texts)

    def matches(self, rows_R: NDArray[np.int64], columns_C: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the number of n-grams that pairs of texts share, with multiplicity [R, C].

        Args:
            rows_R, columns_C: indices of texts.
        """
        matches_RC = np.zeros((len(rows_R), len(columns_C)))
        # a column of one text adds nothing to two different texts
        is_shared_W = np.bincount(self.column_M, minlength=self.num_columns) > 1
        shared_W = np.cumsum(is_shared_W) - 1
        is_shared_M = is_shared_W[self.column_M]
        text_M, column_M = self.text_M[is_shared_M], shared_W[self.column_M[is_shared_M]]
        num_shared = int(is_shared_W.sum())
        width = max(min(MAX_CELLS // max(self.num_texts, 1), num_shared), 1)
        for start in range(0, num_shared, width):
            is_here_M = (column_M >= start) & (column_M < start + width)
            has_TW = np.zeros((self.num_texts, width), dtype=np.float32)
            has_TW[text_M[is_here_M], column_M[is_here_M] - start] = 1.0
            matches_RC += has_TW[rows_R] @ has_TW[columns_C].T
        same_row, same_column = np.nonzero(rows_R[:, None] == columns_C)
        matches_RC[same_row, same_column] = self.totals_T[rows_R[same_row]]
        return matches_RC

    def mean_matches(self, weights_T: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted sum over all texts of the number of n-grams that each text shares with them [T]."""
        weight_W = np.bincount(self.column_M, weights=weights_T[self.text_M], minlength=self.num_columns)
        sums_T: NDArray[np.float64] = np.bincount(
            self.text_M, weights=weight_W[self.column_M], minlength=self.num_texts
        ).astype(np.float64, copy=False)
        return sums_T


def ngram_columns(
    symbols_S: NDArray[np.int64], text_S: NDArray[np.int64], num_texts: int, order: int
) -> list[NgramColumns]:
    """Return the n-grams of the orders 1 to `order`.

    Args:
        symbols_S: symbols of all texts, one text after the other, from 0.
        text_S: index of the text of each symbol.
    """
    found = [assign_columns(symbols_S, text_S, num_texts)]
    num_symbols = int(symbols_S.max(initial=0)) + 1
    ngram_M = symbols_S  # number of the n-gram that begins at each symbol, also if it extends into the next text
    for n in range(2, order + 1):
        longer_M = ngram_M[:-1] * num_symbols + symbols_S[n - 1 :]
        ngram_M = np.unique(longer_M, return_inverse=True)[1]
        first_M, last_M = text_S[: len(ngram_M)], text_S[n - 1 :]
        is_whole_M = first_M == last_M
        found.append(assign_columns(ngram_M[is_whole_M], first_M[is_whole_M], num_texts))
    return found


def assign_columns(ngram_M: NDArray[np.int64], text_M: NDArray[np.int64], num_texts: int) -> NgramColumns:
    """Return the columns of n-grams, which are given as numbers."""
    order_M = np.lexsort((text_M, ngram_M))
    ngram_M, text_M = ngram_M[order_M], text_M[order_M]
    is_other_ngram = ngram_M[1:] != ngram_M[:-1]
    first_of_ngram_M = first_of_run(is_other_ngram[None])[0]
    first_in_text_M = first_of_run((is_other_ngram | (text_M[1:] != text_M[:-1]))[None])[0]
    # the first column of an n-gram is the index of its first occurrence, and it has at most as many as occurrences
    column_M = first_of_ngram_M + np.arange(len(text_M)) - first_in_text_M
    return NgramColumns(text_M, column_M, len(text_M), num_texts)


def first_of_run(differs_OC: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first index of each element's run of equal elements [O, C].

    Args:
        differs_OC: mask of elements that differ from the one before [O, C - 1].
    """
    starts_OC = np.zeros((len(differs_OC), differs_OC.shape[1] + 1), dtype=np.int64)
    np.multiply(differs_OC, np.arange(1, starts_OC.shape[1]), out=starts_OC[:, 1:])
    return np.maximum.accumulate(starts_OC, axis=1)


def symbols_of(texts: Sequence[Sequence[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the symbols of all texts as numbers [S], and the index of the text of each symbol [S]."""
    numbers: dict[str, int] = {}
    symbols = [numbers.setdefault(symbol, len(numbers)) for text in texts for symbol in text]
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    return np.array(symbols, dtype=np.int64), np.repeat(np.arange(len(texts)), lengths)
