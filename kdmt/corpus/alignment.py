"""Word alignment of a parallel corpus: the source word that produced each target word.

The method is essentially fast_align (Dyer, Chahuneau, Smith 2013) with its default settings: expectation maximisation
(EM) of IBM Model 1 (Brown et al. 1993) with a prior that favours links near the diagonal.

Shape legend: S source words and T target words of a sentence; J target words and L candidate links of a chunk of the
corpus (each target word has one candidate link for each source word of its sentence, the empty word first); P distinct
word pairs of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

EM_ITERATIONS = 10
DIAGONAL_TENSION = 4.0  # this and the next value are the defaults of fast_align
EMPTY_WORD_PROBABILITY = 0.08

_CHUNK_LINKS = 2_000_000  # links in a chunk; each takes about 40 bytes while its chunk is processed, otherwise 4

IntArray = NDArray[np.integer]


@dataclass(frozen=True)
class WordPairs:
    """Word pairs that occur together in a sentence pair, sorted by source id, then by target id."""

    src_ids_P: NDArray[np.int64]
    tgt_ids_P: NDArray[np.int64]
    t_P: NDArray[np.float64]  # t(y|x); for each x, the sum over its target words y is 1
    links_P: NDArray[np.int64]  # number of target words y whose most likely source word is x


def align(
    src_sentences: Sequence[IntArray], tgt_sentences: Sequence[IntArray], *, iterations: int = EM_ITERATIONS
) -> WordPairs:
    """Train a translation table and link each target word to the source word that most likely produced it.

    Args:
        src_sentences: ids [1 + S] of each sentence, the first id is that of the empty word.
        tgt_sentences: ids [T] of each sentence.
        iterations: number of iterations of expectation maximisation, starting from a uniform t.

    Raises:
        ValueError: if there is no word pair, or the numbers of sources and targets differ.
    """
    sizes = [(len(src), len(tgt)) for src, tgt in zip(src_sentences, tgt_sentences, strict=True)]
    if not any(src > 1 and tgt for src, tgt in sizes):
        raise ValueError("there is no word pair to align")
    tgt_size = 1 + max(int(tgt.max()) for tgt in tgt_sentences if len(tgt))
    codes, indices = [], []  # for each chunk: its distinct pairs, and the index of the pair of each of its links
    chunks = list(_chunks(sizes))
    for chunk in chunks:
        codes_L = np.concatenate(
            [_pair_codes(src_sentences[i], tgt_sentences[i], tgt_size) for i in range(*chunk)], dtype=np.int64
        )
        own, index_L = np.unique(codes_L, return_inverse=True)
        codes.append(own)
        indices.append(index_L.astype(np.int32))
    pairs_P = np.unique(np.concatenate(codes))
    parts = [
        _Part(sizes[slice(*chunk)], np.searchsorted(pairs_P, own).astype(np.int32)[index_L])
        for chunk, own, index_L in zip(chunks, codes, indices, strict=True)
    ]
    src_ids_P, tgt_ids_P = np.divmod(pairs_P, tgt_size)
    t_P = _train(parts, src_ids_P, iterations)
    links_P = np.zeros(len(pairs_P), dtype=np.int64)
    for part in parts:
        best_J = _best_links(t_P[part.pair_L] * part.prior(), part.candidates())
        links_P += np.bincount(part.pair_L[best_J], minlength=len(pairs_P))
    return WordPairs(src_ids_P, tgt_ids_P, t_P, links_P)


class TranslationTable:
    """Trained probabilities t(y|x), with which sentences are aligned that need not be those of the training.

    Args:
        pairs: word pairs of the training, whose target ids are less than `num_targets`.
        floor: probability of a pair of words that never occurred together. If it is 0, a target word that occurred with
            no word of the source is linked to the empty word.
    """

    def __init__(self, pairs: WordPairs, num_targets: int, *, floor: float = 1e-7) -> None:
        self._codes_P = pairs.src_ids_P * num_targets + pairs.tgt_ids_P
        self._t_P, self._num_targets, self._floor = pairs.t_P, num_targets, floor

    def link(self, src_sentences: Sequence[IntArray], tgt_sentences: Sequence[IntArray]) -> list[NDArray[np.int64]]:
        """Return the source word that each target word is linked to, for each sentence pair [T].

        Args:
            src_sentences: ids [1 + S] of each sentence, the first id is that of the empty word.
            tgt_sentences: ids [T] of each sentence.

        Returns:
            Indices from 0 for the source words, -1 for the empty word.
        """
        sizes = [(len(src), len(tgt)) for src, tgt in zip(src_sentences, tgt_sentences, strict=True)]
        found: list[NDArray[np.int64]] = []
        for first, end in _chunks(sizes):
            chunk = range(first, end)
            codes_L = np.concatenate(
                [_pair_codes(src_sentences[i], tgt_sentences[i], self._num_targets) for i in chunk], dtype=np.int64
            )
            place_L = np.minimum(np.searchsorted(self._codes_P, codes_L), len(self._codes_P) - 1)
            t_L = np.where(self._codes_P[place_L] == codes_L, self._t_P[place_L], self._floor)
            part = _Part(sizes[first:end], place_L.astype(np.int32))
            candidates_J = part.candidates()
            starts_J = np.cumsum(candidates_J) - candidates_J
            joint_L = np.maximum(t_L, self._floor) * part.prior()
            best_J = _best_links(joint_L, candidates_J) if len(codes_L) else starts_J
            links_J = np.where(joint_L[best_J] > 0, best_J - starts_J - 1, -1)
            found += np.split(links_J, np.cumsum([size for _, size in sizes[first:end]])[:-1])
        return found


@dataclass(frozen=True)
class _Part:
    """A chunk of the corpus."""

    sizes: list[tuple[int, int]]  # (1 + S, T) of each sentence pair
    pair_L: NDArray[np.int32]

    def prior(self) -> NDArray[np.float64]:
        """Return the prior probability of each link [L]."""
        return np.concatenate([diagonal_prior(src - 1, tgt).ravel() for src, tgt in self.sizes])

    def candidates(self) -> NDArray[np.int64]:
        """Return the number of candidate links of each target word [J]."""
        src_sizes, tgt_sizes = np.array(self.sizes, dtype=np.int64).T
        return np.repeat(src_sizes, tgt_sizes)


def spread(size: int, count: int) -> list[int]:
    """Return at most `count` evenly spaced positions, since a corpus may be sorted by the origin of its text."""
    count = min(size, count)
    return [i * size // count for i in range(count)]


def _chunks(sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges of sentences with at most `_CHUNK_LINKS` links; a sentence with more links is a range of its own."""
    first, links = 0, 0
    for index, (src, tgt) in enumerate(sizes):
        if index > first and links + src * tgt > _CHUNK_LINKS:
            yield first, index
            first, links = index, 0
        links += src * tgt
    yield first, len(sizes)


def _pair_codes(src: IntArray, tgt: IntArray, tgt_size: int) -> NDArray[np.int64]:
    return (src.astype(np.int64)[None, :] * tgt_size + tgt.astype(np.int64)[:, None]).ravel()


@lru_cache(maxsize=10_000)
def diagonal_prior(src_length: int, tgt_length: int) -> NDArray[np.float64]:
    """Return the prior probability of each link, independent of the words [T, 1 + S] (Dyer et al. 2013, equation 1).

    The empty word, in column 0, has the probability p0. The rest is divided among the source words in proportion to
    exp(-λ |i/m - j/n|), for source word i of m and target word j of n.
    """
    i_S = np.arange(1, src_length + 1) / src_length
    j_T = np.arange(1, tgt_length + 1) / tgt_length
    weight_TS = np.exp(-DIAGONAL_TENSION * np.abs(i_S[None, :] - j_T[:, None]))
    words_TS = (1 - EMPTY_WORD_PROBABILITY) * weight_TS / weight_TS.sum(axis=1, keepdims=True)
    return np.concatenate([np.full((tgt_length, 1), EMPTY_WORD_PROBABILITY), words_TS], axis=1)


def _train(parts: Sequence[_Part], src_ids_P: NDArray[np.int64], iterations: int) -> NDArray[np.float64]:
    """Estimate t(y|x) of each co-occurring pair by expectation maximisation (Brown et al. 1993, section 4.1)."""
    t_P = np.ones(len(src_ids_P))
    for _ in range(iterations):
        counts_P = np.zeros(len(t_P))
        for part in parts:
            candidates_J = part.candidates()
            starts_J = np.cumsum(candidates_J) - candidates_J
            joint_L = t_P[part.pair_L] * part.prior()
            posterior_L = joint_L / np.repeat(np.add.reduceat(joint_L, starts_J), candidates_J)
            counts_P += np.bincount(part.pair_L, weights=posterior_L, minlength=len(t_P))
        t_P = counts_P / np.bincount(src_ids_P, weights=counts_P)[src_ids_P]
    return t_P


def _best_links(joint_L: NDArray[np.float64], candidates_J: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of the most likely candidate link of each target word [J]; of several equal ones, the last."""
    starts_J = np.cumsum(candidates_J) - candidates_J
    is_best_L = joint_L == np.repeat(np.maximum.reduceat(joint_L, starts_J), candidates_J)
    return np.maximum.reduceat(np.where(is_best_L, np.arange(len(joint_L)), -1), starts_J)
