"""Filter by the probability of each side given the other under IBM model 1.

The model (Brown et al. 1993) is trained on a sample of the corpora themselves, in both directions. The score of a pair
is the mean of both directions of the mean of log P(y | x) over the words y of one side, with

    P(y | x) = p0 t(y | empty) + (1 - p0) / S sum_s t(y | x_s)

Words that occur once in the sample are unknown and not counted, because such a word is aligned to whatever is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdmt.config import AlignmentScore
from kdmt.corpus.alignment import EMPTY_WORD_PROBABILITY, align
from kdmt.corpus.filters.scored_filter import KeptText, Pair, Scores, sample_pairs, score_in_batches
from kdmt.corpus.filters.words import Ids, WordIds, count_vocabulary
from kdmt.corpus.process_pool import OpenMap

ITERATIONS = 5
MIN_COUNT = 2
MAX_VOCABULARY = 200_000
FLOOR = 1e-7  # probability of a pair of words that never occurred together
_BATCH_PAIRS = 5_000


@dataclass(frozen=True)
class Lexicon:
    """Translation table of one direction.

    Attributes:
        codes_P: `source id * size + target id` of each pair of words, ascending; the empty word has the source id 0.
        t_P: t(y | x) of each pair.
        size: number of target ids.
    """

    codes_P: NDArray[np.int64]
    t_P: NDArray[np.float64]
    size: int

    def mean_log_probability(self, source: Ids, target: Ids) -> float:
        """Return the mean of log P(y | x) over the known target words, NaN if there are none or no source words."""
        known = target[target > 0]
        if not len(known) or not len(source):
            return float("nan")
        with_empty = np.concatenate([np.zeros(1, dtype=np.int64), source + 1])
        codes = (with_empty[:, None] * self.size + known[None, :]).ravel()
        found = np.minimum(np.searchsorted(self.codes_P, codes), len(self.codes_P) - 1)
        t_ST = np.where(self.codes_P[found] == codes, self.t_P[found], 0.0).reshape(len(with_empty), len(known))
        p_T = EMPTY_WORD_PROBABILITY * t_ST[0] + (1 - EMPTY_WORD_PROBABILITY) * t_ST[1:].mean(axis=0)
        return float(np.log(np.maximum(p_T, FLOOR)).mean())


@dataclass(frozen=True)
class AlignmentModel:
    """IBM model 1 of both directions."""

    vocabularies: tuple[WordIds, WordIds]
    forward: Lexicon
    backward: Lexicon

    def score_pair(self, pair: Pair) -> float:
        """Return the score of a pair."""
        source, target = (own.encode(line) for own, line in zip(self.vocabularies, pair, strict=True))
        forward = self.forward.mean_log_probability(source, target)
        backward = self.backward.mean_log_probability(target, source)
        return (forward + backward) / 2

    def score_batch(self, pairs: Sequence[Pair]) -> Scores:
        """Return the scores of pairs."""
        return np.array([self.score_pair(pair) for pair in pairs])


def train_alignment(pairs: Sequence[Pair], spaced: tuple[bool, bool]) -> AlignmentModel | None:
    """Return the model of both directions, or None if no pair has known words on both sides."""
    sides = tuple(zip(*pairs, strict=True)) or ((), ())
    vocabularies = tuple(
        count_vocabulary(lines, spaced=own, min_count=MIN_COUNT, max_words=MAX_VOCABULARY)
        for lines, own in zip(sides, spaced, strict=True)
    )
    sources, targets = ([own.encode(line) for line in lines] for own, lines in zip(vocabularies, sides, strict=True))
    if not any((source > 0).any() and (target > 0).any() for source, target in zip(sources, targets, strict=True)):
        return None
    source_words, target_words = vocabularies
    forward = _train_lexicon(sources, targets, len(target_words))
    return AlignmentModel((source_words, target_words), forward, _train_lexicon(targets, sources, len(source_words)))


def _train_lexicon(sources: Sequence[Ids], targets: Sequence[Ids], size: int) -> Lexicon:
    empty = np.zeros(1, dtype=np.int64)
    found = align([np.concatenate([empty, ids + 1]) for ids in sources], targets, iterations=ITERATIONS)
    return Lexicon(found.src_ids_P * size + found.tgt_ids_P, found.t_P, size)


class AlignmentFilter:
    """Filter by IBM model 1.

    Args:
        settings: settings of the filter.
        spaced: whether each side is written with spaces between words.
        open_map: context in which batches of pairs are scored.
    """

    def __init__(self, settings: AlignmentScore, *, spaced: tuple[bool, bool], open_map: OpenMap) -> None:
        self._settings, self._spaced, self._open_map = settings, spaced, open_map
        self._model: AlignmentModel | None = None

    def fit(self, texts: Sequence[KeptText]) -> None:
        """Train the model on a sample of all corpora."""
        self._model = train_alignment(sample_pairs(texts, self._settings.train_pairs), self._spaced)

    def score(self, text: KeptText) -> Scores:
        """Return the score of each kept pair [K]; NaN for pairs without known words."""
        if self._model is None:
            return np.full(len(text), np.nan)
        return score_in_batches(self._model.score_batch, text, batch_pairs=_BATCH_PAIRS, open_map=self._open_map)
