"""Numbers of n-grams that texts share, by sorted arrays instead of dictionaries.

An n-gram is the beginning of a *window*: the symbols from one position on, as many as the highest order. After sorting
the distinct windows, those with equal beginnings are adjacent, so that the counts of the n-grams of every order are
sums of adjacent counts of windows.

Shapes: T texts, S symbols of all texts (characters or words), U distinct n-grams or windows, O orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CELLS = 1 << 22  # maximum size of a matrix of windows by texts, unless one symbol begins more windows
_BITS = 63


@dataclass(frozen=True)
class Symbols:
    """The symbols of T texts, one text after the other.

    Attributes:
        ranks_S: number of each symbol, from 1.
        lengths_T: number of symbols of each text.
    """

    ranks_S: NDArray[np.int64]
    lengths_T: NDArray[np.int64]

    @classmethod
    def of_characters(cls, texts: Sequence[str]) -> Symbols:
        """Return the characters of texts."""
        codes_S = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        ranks_S = np.searchsorted(np.unique(codes_S), codes_S) + 1
        return cls(ranks_S, np.array([len(text) for text in texts], dtype=np.int64))

    @classmethod
    def of_words(cls, texts: Sequence[Sequence[str]]) -> Symbols:
        """Return the words of texts."""
        numbers: dict[str, int] = {}
        ranks = [numbers.setdefault(word, len(numbers) + 1) for text in texts for word in text]
        lengths_T = np.array([len(text) for text in texts], dtype=np.int64)
        return cls(np.array(ranks, dtype=np.int64), lengths_T)

    def totals(self, order: int) -> NDArray[np.int64]:
        """Return the number of n-grams of each text by order [O, T]."""
        return np.maximum(self.lengths_T - np.arange(order)[:, None], 0)

    def matches(self, order: int, rows_R: NDArray[np.int64], columns_C: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return for each order the number of n-grams that pairs of texts share, with multiplicity [O, R, C].

        Args:
            order: highest order.
            rows_R, columns_C: indices of texts.
        """
        matches_ORC = np.zeros((order, len(rows_R), len(columns_C)))
        rows, columns = (_slice_of_all(each, len(self.lengths_T)) for each in (rows_R, columns_C))
        for n, counts_UT in self._counts(order):
            for has_UT in _levels(counts_UT):
                # an n-gram of one text adds nothing to two different texts
                is_shared_U = has_UT.sum(axis=1, dtype=np.int32) > 1
                has_UT = has_UT[is_shared_U].astype(np.float32)
                matches_ORC[n] += has_UT[:, rows].T @ has_UT[:, columns]
        row, column = np.nonzero(rows_R[:, None] == columns_C)
        matches_ORC[:, row, column] = self.totals(order)[:, rows_R[row]]
        return matches_ORC

    def mean_matches(self, order: int, weights_T: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return for each order the weighted sum over all texts of the n-grams that a text shares with them [O, T].

        This is `matches` times the weights. Its time is linear in the number of texts, since
        min(a, b) = Σ_k [a > k] [b > k] for the counts a and b of an n-gram in two texts.
        """
        mean_OT = np.zeros((order, len(self.lengths_T)))
        for n, counts_UT in self._counts(order):
            for has_UT in _levels(counts_UT):
                has_UT = has_UT.astype(np.float64)
                mean_OT[n] += (has_UT @ weights_T) @ has_UT
        return mean_OT

    def _counts(self, order: int) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield the order, from 0, and the counts of some of its n-grams in each text [U, T]."""
        num_texts = len(self.lengths_T)
        if not len(self.ranks_S):
            return
        windows, window_S = self._windows(order)
        text_S = np.repeat(np.arange(num_texts), self.lengths_T)
        for start, stop in _parts(windows[0], max(MAX_CELLS // num_texts, 1)):
            is_here_S = slice(None) if stop - start == len(windows[0]) else (window_S >= start) & (window_S < stop)
            cells_S = (window_S[is_here_S] - start) * num_texts + text_S[is_here_S]
            counts = np.bincount(cells_S, minlength=(stop - start) * num_texts).reshape(stop - start, num_texts)
            sums = np.zeros((stop - start + 1, num_texts), dtype=np.int32)  # of the windows before each one
            np.cumsum(counts.astype(np.int32), axis=0, out=sums[1:])
            starts_U = np.zeros(stop - start, dtype=bool)
            starts_U[0] = True
            for n, symbol_U in enumerate(windows):
                symbol_U = symbol_U[start:stop]
                starts_U[1:] |= symbol_U[1:] != symbol_U[:-1]
                first_U = np.flatnonzero(starts_U)
                following_U = np.append(first_U[1:], stop - start)
                is_whole_U = symbol_U[first_U] > 0  # otherwise the text ends before
                yield n, sums[following_U[is_whole_U]] - sums[first_U[is_whole_U]]

    def _windows(self, order: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """Return the distinct windows in sorted order, and the index of the window at each symbol.

        Returns:
            The symbols of the windows by position, 0 after the end of the text [O arrays of U], and indices [S].
        """
        text_S = np.repeat(np.arange(len(self.lengths_T)), self.lengths_T)
        place_S = np.arange(len(text_S)) + (order - 1) * text_S  # with padding between texts
        padded = np.zeros(int(place_S[-1]) + order, dtype=np.int64)
        padded[place_S] = self.ranks_S
        bits = int(self.ranks_S.max()).bit_length()
        if bits * order > _BITS:
            rows, index_S = np.unique(
                np.stack([padded[place_S + k] for k in range(order)], axis=1), axis=0, return_inverse=True
            )
            return list(rows.T), index_S.reshape(-1)
        window = np.zeros(len(padded) - order + 1, dtype=np.int64)
        for k in range(order):
            window = (window << bits) | padded[k : k + len(window)]
        distinct_U, index_S = np.unique(window[place_S], return_inverse=True)
        mask = (1 << bits) - 1
        return [(distinct_U >> (bits * (order - 1 - k))) & mask for k in range(order)], index_S


def _slice_of_all(indices: NDArray[np.int64], count: int) -> NDArray[np.int64] | slice:
    """Return a slice instead of the indices of all elements in order, so that nothing is copied."""
    return slice(None) if np.array_equal(indices, np.arange(count)) else indices


def _levels(counts_UT: NDArray[np.int32]) -> Iterator[NDArray[np.bool_]]:
    """Yield for k = 0, 1, ... a mask of the counts above k, with the rows that have one [U, T]."""
    k = 0
    while len(counts_UT):
        has_UT = counts_UT > k
        yield has_UT
        k += 1
        counts_UT = counts_UT[counts_UT.max(axis=1) > k]


def _parts(first_U: NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of windows of about `size` that do not divide the windows of one first symbol."""
    bounds = [0, *(np.flatnonzero(first_U[1:] != first_U[:-1]) + 1).tolist(), len(first_U)]
    start = 0
    for bound, following in zip(bounds[1:], [*bounds[2:], None], strict=True):
        if following is None or following - start > size:
            yield start, bound
            start = bound
