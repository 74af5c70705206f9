"""Filter by cross-entropy difference (Moore and Lewis 2010), on both sides (Axelrod, He, Gao 2011).

The score of a pair is the sum over both sides of H_general - H_in_domain, in nats per word: positive for text that is
more like the text of the domain than like the corpora. The language models (`ngram_model.py`) are trained on equally
many lines, with the words that occur at least twice in the text of the domain as vocabulary. There are two models of
the corpora, each of a sample of every second pair, and a pair is scored by the one that has not seen it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdmt.config import CrossEntropyDifference
from kdmt.corpus.filters.ngram_model import NgramModel
from kdmt.corpus.filters.scored_filter import KeptText, Pair, Scores, sample_pairs, score_in_batches
from kdmt.corpus.filters.words import WordIds, count_vocabulary
from kdmt.corpus.process_pool import OpenMap

MIN_COUNT = 2
MAX_VOCABULARY = 200_000  # the code of a trigram fits into 63 bits
_BATCH_PAIRS = 5_000  # an even number


@dataclass(frozen=True)
class SideModels:
    """Language models of one side; there is one of the corpora for each half of the pairs."""

    vocabulary: WordIds
    in_domain: NgramModel
    general: tuple[NgramModel, NgramModel]

    def score(self, line: str, half: int) -> float:
        """Return H_general - H_in_domain of a line in nats per word, the end of the line included.

        Args:
            half: number of the half of the pairs that has the line; the model of the other half is used.
        """
        ids = self.vocabulary.encode(line)
        general = self.general[1 - half].log_probabilities(ids)
        return float(np.mean(self.in_domain.log_probabilities(ids) - general))


def train_side(in_domain: Sequence[str], general: tuple[Sequence[str], Sequence[str]], *, spaced: bool) -> SideModels:
    """Return the language models of one side, given the text of the domain and of each half of the corpora."""
    vocabulary = count_vocabulary(in_domain, spaced=spaced, min_count=MIN_COUNT, max_words=MAX_VOCABULARY)
    first, second, domain = (
        NgramModel([vocabulary.encode(line) for line in lines], len(vocabulary)) for lines in (*general, in_domain)
    )
    return SideModels(vocabulary, domain, (first, second))


class CrossEntropyFilter:
    """Filter by cross-entropy difference.

    Args:
        settings: settings of the filter.
        valid: pairs of the validation set.
        spaced: whether each side is written with spaces between words.
        open_map: context in which batches of pairs are scored.
    """

    def __init__(
        self, settings: CrossEntropyDifference, *, valid: Sequence[Pair], spaced: tuple[bool, bool], open_map: OpenMap
    ) -> None:
        self._settings, self._valid, self._spaced, self._open_map = settings, valid, spaced, open_map
        self._models: tuple[SideModels, ...] = ()

    def fit(self, texts: Sequence[KeptText]) -> None:
        """Train the language models of both sides."""
        settings = self._settings
        in_domain: Sequence[Pair] = self._valid
        if settings.in_domain_corpus is not None:
            in_domain = sample_pairs([texts[settings.in_domain_corpus]], settings.train_pairs)
        general = [sample_pairs([text.half(number) for text in texts], len(in_domain)) for number in (0, 1)]
        self._models = tuple(
            train_side(
                [pair[side] for pair in in_domain],
                ([pair[side] for pair in general[0]], [pair[side] for pair in general[1]]),
                spaced=spaced,
            )
            for side, spaced in enumerate(self._spaced)
            if settings.sides in ("both", ("source", "target")[side])
        )

    def score(self, text: KeptText) -> Scores:
        """Return the score of each kept pair [K]."""
        sides = [side for side, name in enumerate(("source", "target")) if self._settings.sides in ("both", name)]
        score_batch = functools.partial(_score_batch, tuple(zip(sides, self._models, strict=True)))
        return score_in_batches(score_batch, text, batch_pairs=_BATCH_PAIRS, open_map=self._open_map)


def _score_batch(models: tuple[tuple[int, SideModels], ...], pairs: Sequence[Pair]) -> Scores:
    """Return the scores of pairs, the first of which has an even index."""
    return np.array(
        [sum(model.score(pair[side], index % 2) for side, model in models) for index, pair in enumerate(pairs)]
    )
