"""Counts of the pairs, or of the sources or targets, that training corpora have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_CHUNK_PAIRS = 1_000_000


def count_overlaps(first_N: NDArray[np.int64], num_pairs: Sequence[int]) -> NDArray[np.int64]:
    """Return the number of pairs of each corpus that another one has first, int64 [corpora, corpora].

    Entry (i, j) counts the pairs of corpus i whose first occurrence in all corpora is in corpus j; (i, i) counts
    repetitions within a corpus. A pair without an earlier occurrence is not counted.

    Args:
        first_N: index of the first pair that equals each pair of all corpora together, on the sides that are compared.
        num_pairs: number of pairs of each corpus, in order.
    """
    ends = np.cumsum(num_pairs)
    counts = np.zeros((len(ends), len(ends)), dtype=np.int64)
    for start in range(0, len(first_N), _CHUNK_PAIRS):
        first_M = np.asarray(first_N[start : start + _CHUNK_PAIRS])
        index_M = np.arange(start, start + len(first_M))
        repeated = np.flatnonzero(first_M != index_M)
        own, earlier = (np.searchsorted(ends, part[repeated], side="right") for part in (index_M, first_M))
        np.add.at(counts, (own, earlier), 1)
    return counts
