"""Trigram language model over ids of words, with interpolated Witten-Bell smoothing (Witten and Bell 1991).

    P(w | h) = (c(h w) + T(h) P(w | h')) / (c(h) + T(h))

h' is h without its first word, T(h) the number of distinct words after h, and P at the lowest order 1 / V. Contexts
that never occurred use the shorter context alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.filters.words import Ids

ORDER = 3


@dataclass(frozen=True)
class _Counts:
    """Counts of the n-grams of one order, by code: ascending codes and their counts."""

    ngrams: NDArray[np.int64]
    ngram_counts: NDArray[np.int64]
    contexts: NDArray[np.int64]
    context_counts: NDArray[np.int64]
    context_types: NDArray[np.int64]


class NgramModel:
    """Language model; the id after the last word is that of the end of a sentence.

    Args:
        sentences: ids of the words of each sentence.
        num_words: number of ids of words, from 0.
    """

    def __init__(self, sentences: Sequence[Ids], num_words: int) -> None:
        self._end, self._start = num_words, num_words + 1
        self._size = num_words + 2
        self._counts = [self._count(sentences, order) for order in range(1, ORDER + 1)]

    def log_probabilities(self, sentence: Ids) -> NDArray[np.float64]:
        """Return the natural log-probability of each word of a sentence and of its end, given the words before."""
        words = np.append(sentence, self._end)
        probability = np.full(len(words), 1.0 / (self._size - 1))  # all words and the end of a sentence
        for order, counts in enumerate(self._counts, start=1):
            contexts, ngrams = self._codes(sentence, order)
            total, types = (
                _look_up(counts.contexts, values, contexts) for values in (counts.context_counts, counts.context_types)
            )
            own = _look_up(counts.ngrams, counts.ngram_counts, ngrams)
            mixed = (own + types * probability) / np.maximum(total + types, 1)
            probability = np.where(total > 0, mixed, probability)
        return np.log(probability)

    def _codes(self, sentence: Ids, order: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the code of the context and of the n-gram of each word of a sentence and of its end."""
        padded = np.concatenate([np.full(order - 1, self._start, dtype=np.int64), sentence, [self._end]])
        count = len(sentence) + 1
        contexts = np.zeros(count, dtype=np.int64)
        for offset in range(order - 1):
            contexts = contexts * self._size + padded[offset : offset + count]
        return contexts, contexts * self._size + padded[order - 1 :]

    def _count(self, sentences: Sequence[Ids], order: int) -> _Counts:
        codes = [self._codes(sentence, order)[1] for sentence in sentences]
        ngrams, ngram_counts = np.unique(np.concatenate(codes or [np.zeros(0, np.int64)]), return_counts=True)
        contexts, first = np.unique(ngrams // self._size, return_index=True)
        types = np.diff(np.append(first, len(ngrams)))
        totals = np.add.reduceat(ngram_counts, first) if len(first) else np.zeros(0, np.int64)
        return _Counts(ngrams, ngram_counts, contexts, totals, types)


def _look_up(codes: NDArray[np.int64], values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the value of each wanted code, 0 for codes that are not there."""
    if not len(codes):
        return np.zeros(len(wanted), dtype=np.int64)
    found = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where(codes[found] == wanted, values[found], 0)
