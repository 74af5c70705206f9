"""Text infilling, the noise of BART and mBART (Lewis et al. 2020; Liu et al. 2020), and sentences that have it.

Of a sentence of n words, ceil(mask_rate * n) are hidden in spans, whose lengths are drawn from a Poisson distribution.
The last span is cut to that number. Each span, also an empty one, becomes one mask token; all arrangements of the spans
and of the other words, which keep their order, are equally probable. The mask is <unk>, as in fairseq's masked models,
so that the dictionaries do not change. A model sees the noise in place of the source; the target is the whole sentence.

Spans do not overlap, unlike those of fairseq, which therefore hides fewer words than the rate.

The draws of a sentence depend on (seed, epoch, place of the sentence) alone, see `kdmt.corpus.subword_sampling`.

Shape legend: B sentences, M tokens of all sentences, N sentences of the text.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Denoising
from kdmt.corpus.subword_sampling import Draw, IntArray, Word, WordLimits
from kdmt.corpus.token_alignment import count_tags
from kdmt.types import EOS, UNK

_STREAM = 1  # number in the seeds of these draws, which are not those of subwords
_ROUNDING = 1e-9  # of the product of a rate and a number of words


def poisson_limits(mean: float) -> list[float]:
    """Return P(length <= 0), P(length <= 1), ... of a Poisson distribution, up to 1."""
    limits, total, probability, length = [], 0.0, math.exp(-mean), 0
    while total < 1.0 - 1e-12:
        total += probability
        limits.append(total)
        length += 1
        probability *= mean / length
    return limits


def span_lengths(num_hidden: int, limits: Sequence[float], draw: Draw) -> list[int]:
    """Return the lengths of spans of `num_hidden` words, in the order in which they are drawn.

    The last span is cut. There are at most as many spans as words, so that no sentence becomes longer.

    Args:
        limits: cumulative probabilities of the lengths 0, 1, ... (`poisson_limits`).
    """
    lengths: list[int] = []
    left = num_hidden
    while left:
        lengths.append(min(bisect_right(limits, draw()), left))
        left -= lengths[-1]
    while len(lengths) > num_hidden:
        lengths.remove(0)
    return lengths


def infill(words: Sequence[Word], mask_rate: float, limits: Sequence[float], draw: Draw) -> list[int]:
    """Return the tokens of a sentence with one <unk> for each hidden span.

    Args:
        words: ids of the tokens of each word, without </s>.
        mask_rate: share of the words that are hidden.
        limits: cumulative probabilities of the lengths of spans.
        draw: returns numbers in [0, 1).
    """
    spans = span_lengths(math.ceil(mask_rate * len(words) - _ROUNDING), limits, draw)
    shown: list[int] = []
    place = 0
    for left in range(len(words) - sum(spans) + len(spans), 0, -1):
        if draw() * left < len(spans):
            place += spans.pop(int(draw() * len(spans)))
            shown.append(UNK)
        else:
            shown += words[place]
            place += 1
    return shown


@dataclass(frozen=True)
class Infilling:
    """Makes sources and targets of the sentences of a text: both sides of a data set are this text.

    Attributes:
        settings: settings of the noise.
        seed: seed of the draws.
        limits: for each language the tokens at which its words begin and end; None if each token counts as a word.
        prefixes: for each language the ids of its language tokens, which are before a source and never hidden.
        language_N: index of the language of each sentence, int16 [N].
        tag_ids: ids of corpus tags and language tokens. Those at the beginning of a sentence are no part of the text.
    """

    settings: Denoising
    seed: int
    limits: Sequence[WordLimits | None]
    prefixes: Sequence[Sequence[int]]
    language_N: NDArray[np.int16]
    tag_ids: frozenset[int] = frozenset()

    def sample(
        self, tokens: IntArray, sizes: IntArray, places: IntArray, side: int, *, epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sources (side 0), which have noise, or the targets (side 1) of sentences.

        Args:
            tokens: concatenated ids [M], `</s>` at the end of each sentence.
            sizes: number of tokens of each sentence [B].
            places: place of each sentence in the epoch [B], see `kdmt.corpus.subword_sampling.SentenceSampler`.
        """
        found: list[Sequence[int]] = []
        for sentence, place in zip(np.split(tokens, np.cumsum(sizes)[:-1]), places.tolist(), strict=True):
            text = sentence[count_tags(sentence, self.tag_ids) :] if self.tag_ids else sentence
            found.append(text.tolist() if side else self._source(text[:-1], place, epoch))
        flat = [token for each in found for token in each]
        return np.array(flat, dtype=np.int64), np.array([len(each) for each in found], dtype=np.int64)

    def _source(self, text: NDArray[np.integer[Any]], place: int, epoch: int) -> list[int]:
        language = int(self.language_N[place % len(self.language_N)])
        limits = self.limits[language]
        words = [(token,) for token in text.tolist()] if limits is None else limits.words(text)[0]
        generator = Random((((self.seed << 32 | epoch) << 64 | place) << 8) | _STREAM)  # its numbers never change
        hidden = infill(words, self.settings.mask_rate, self._span_limits, generator.random)
        return [*self.prefixes[language], *hidden, EOS]

    @cached_property
    def _span_limits(self) -> list[float]:
        return poisson_limits(self.settings.span_length)
