"""Lexical shortlist: the target tokens that a source may be translated with, for faster decoding of students.

The output layer then computes the logits of a few hundred tokens instead of the whole vocabulary, as in the students of
Marian and Bergamot (first: Schwenk et al. 2007, Le et al. 2012). The tokens of a batch are the union over its sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.alignment import align, spread
from kdmt.types import BOS, EOS, PAD, UNK

_EMPTY_WORD = BOS  # occurs in no sentence


@dataclass(frozen=True)
class Shortlist:
    """Arrays of target ids, sorted and without <pad>."""

    frequent: NDArray[np.int64]  # ids allowed for all sources, including </s> and <unk>
    of_token: dict[int, NDArray[np.int64]]  # source id -> target ids; other source ids add none

    def allowed(self, sources: Iterable[Sequence[int] | NDArray[np.integer]]) -> set[int]:
        """Return the target ids that a batch of these sources may be translated with."""
        tokens = {int(token) for source in sources for token in source}
        return set(self.frequent.tolist()).union(
            *(self.of_token[token].tolist() for token in tokens & set(self.of_token))
        )


class Sentences(Protocol):
    """A sequence of sentences as arrays of ids."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.integer]: ...


def build_shortlist(
    sources: Sentences,
    targets: Sentences,
    *,
    per_token: int = 100,
    frequent: int = 200,
    max_pairs: int = 100_000,
    iterations: int = 5,
) -> Shortlist:
    """Return a shortlist learnt from a parallel corpus, best from the distilled one, which has the student's targets.

    The memory used is 4 bytes for each pair of a source and a target token of a sentence pair, about 400 MB for 100,000
    sentence pairs of 30 tokens, plus the translation table.

    Args:
        sources, targets: sentences of int [S] and int [T], with or without </s> at the end.
        per_token: number of target tokens y with the largest t(y|x) for each source token x.
        frequent: number of most frequent target tokens, allowed for all sources; the lower id comes first among equals.
        max_pairs: maximum number of sentence pairs to align, evenly spaced in the corpus.
        iterations: number of iterations of expectation maximisation.

    Raises:
        ValueError: if the numbers of sources and targets differ, or there is no word pair to align.
    """
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources and {len(targets)} targets")
    chosen = spread(len(sources), max_pairs)
    src_sentences = [np.concatenate([[_EMPTY_WORD], _words(sources[i])]) for i in chosen]
    tgt_sentences = [_words(targets[i]) for i in chosen]
    pairs = align(src_sentences, tgt_sentences, iterations=iterations)
    counts_V = np.bincount(np.concatenate(tgt_sentences))
    order_P = np.lexsort((pairs.tgt_ids_P, -pairs.t_P, pairs.src_ids_P))
    src_ids, starts = np.unique(pairs.src_ids_P, return_index=True)  # the pairs are sorted by source id
    of_token = {
        src_id: np.sort(pairs.tgt_ids_P[order_P[start : min(start + per_token, end)]])
        for src_id, start, end in zip(
            src_ids.tolist(), starts.tolist(), [*starts.tolist()[1:], len(order_P)], strict=True
        )
        if src_id != _EMPTY_WORD
    }
    return Shortlist(_most_frequent(counts_V, frequent), of_token)


def _words(sentence: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the sentence without </s> and <pad>."""
    tokens = np.asarray(sentence, dtype=np.int64)
    return tokens[(tokens != EOS) & (tokens != PAD)]


def _most_frequent(counts_V: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    best = np.argsort(-counts_V, kind="stable")[:count]
    return np.union1d(best[counts_V[best] > 0], [EOS, UNK])
