"""Scores of candidates by an external scorer, which are computed once before a rule chooses among the candidates.

A file has a number for each line of `nbest`, and a higher number is better: the scores of a scorer with `direction:
lower` are negated. A candidate with a failure is not scored and has -inf, since no rule may choose it.
Shapes: N candidates of a sentence, K texts that are compared with T texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Failures, Scorer
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.direction_codecs import DirectionCodecs
from kdmt.distill.candidates import NO_FAILURE
from kdmt.distill.inputs import Inputs
from kdmt.distill.mbr import Comparisons, ExpectedUtility
from kdmt.distill.merge import Nbest, distinct_sentences
from kdmt.distill.selection import Candidate, Line
from kdmt.distill.training_text import NBEST, OFFSETS, SENTENCES
from kdmt.files import atomic_file
from kdmt.score.scorers.process import Segment
from kdmt.score.scorers.segment_scores import OpenScorer, open_scorer

FOLDER = "scores"  # in the folder of a stage
_TOGETHER = 8192  # segments that are scored together, at least

Item = TypeVar("Item")


@dataclass(frozen=True)
class CandidateScores:
    """The scores of all candidates of one text by one scorer.

    Attributes:
        scorer: name in the section `scorers`.
        settings: its settings.
        caches: folder of the scorers' caches.
        inputs: text whose candidates are scored.
        candidates: folder of the candidates.
        failures: section `distill.failures`.
        path: file for the numbers.
        say: function that prints a line for the user.
        expected: if it is set, the numbers are expected utilities: the weighted means of the scores of a candidate with
            each candidate of the sentence as the reference. Else they are the scores of the candidates; the reference
            is that of the first line with the sentence.
    """

    scorer: str
    settings: Scorer
    caches: Path
    inputs: Inputs
    candidates: Path
    failures: Failures
    path: Path
    say: Callable[[str], None]
    expected: ExpectedUtility | None = None

    def write(self) -> dict[str, object]:
        """Write the numbers, and return the facts for the manifest. Scores in the cache are not computed again.

        Raises:
            UserError: if the scorer fails.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        num_scored = 0
        with (
            open_scorer(self.scorer, self.settings, folder=self.caches, say=self.say) as scorer,
            atomic_file(self.path) as aside,
            aside.open("w") as file,
        ):
            for values_N in self._utilities(scorer) if self.expected is not None else self._scores(scorer):
                num_scored += int(np.isfinite(values_N).sum())
                file.writelines(f"{value:.10g}\n" for value in values_N.tolist())
        return {
            "scorer": self.scorer,
            "signature": scorer.signature,
            "licence": scorer.greeting.licence,
            "direction": self.settings.direction,
            "num_scored": num_scored,
        }

    def _scores(self, scorer: OpenScorer) -> Iterator[NDArray[np.float64]]:
        """Yield the scores of the candidates of each sentence [N]."""
        codecs = DirectionCodecs(self.inputs.corpus.codec())
        requests = (
            (_is_usable(found), _segments(codecs.of(line.tag), line, found)) for line, found in self._sentences()
        )
        for is_usable_N, scores in _scored_together(scorer, requests):
            yield self._with_failures(is_usable_N, scores)

    def _utilities(self, scorer: OpenScorer) -> Iterator[NDArray[np.float64]]:
        """Yield the expected utilities of the candidates of each sentence [N]."""
        for (is_usable_N, comparison), scores in _scored_together(scorer, self._comparisons()):
            if comparison is None:
                yield self._with_failures(is_usable_N, scores)
                continue
            utility_KT = scores.reshape(len(comparison.kept_K), len(comparison.texts))
            sign = 1.0 if self.settings.direction == "higher" else -1.0
            values_N = np.full(len(is_usable_N), -np.inf)
            values_N[is_usable_N] = comparison.expectation(sign * utility_KT)
            yield values_N

    def _comparisons(self) -> Iterator[tuple[tuple[NDArray[np.bool_], Comparisons | None], list[Segment]]]:
        """Yield the comparisons of each sentence, None if it has no usable candidate, and their segments."""
        assert self.expected is not None
        codecs = DirectionCodecs(self.inputs.corpus.codec())
        for line, found in self._sentences():
            codec = codecs.of(line.tag)
            usable = _usable(found)
            comparison = self.expected.comparisons(usable) if usable else None
            segments: list[Segment] = []
            if comparison is not None:
                source = codec.finish_source(line.source)
                references = [codec.finish_target(text) for text in comparison.texts]
                kept = [references[index] for index in comparison.kept_K.tolist()]
                segments = [Segment(source, text, reference) for text in kept for reference in references]
            yield (_is_usable(found), comparison), segments

    def _with_failures(self, is_usable_N: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
        values_N = np.full(len(is_usable_N), -np.inf)
        values_N[is_usable_N] = scores if self.settings.direction == "higher" else -scores
        return values_N

    def _sentences(self) -> Iterator[tuple[Line, Nbest]]:
        return distinct_sentences(
            self.inputs.texts(),
            np.load(self.candidates / SENTENCES, mmap_mode="r"),
            nbest=self.candidates / NBEST,
            offsets=self.candidates / OFFSETS,
            settings=self.failures,
            typical_ratio=self.inputs.typical_ratios(),
        )


def _usable(found: Nbest) -> list[Candidate]:
    return [candidate for candidate, failure in found if failure == NO_FAILURE]


def _is_usable(found: Nbest) -> NDArray[np.bool_]:
    return np.array([failure == NO_FAILURE for _, failure in found], dtype=bool)


def _segments(codec: TextCodec, line: Line, found: Nbest) -> list[Segment]:
    """Return the finished text of each usable candidate, with its source and its reference."""
    source = codec.finish_source(line.source)
    reference = codec.finish_target(line.reference) if line.reference else None
    return [Segment(source, codec.finish_target(each.words), reference) for each in _usable(found)]


def _scored_together(
    scorer: OpenScorer, requests: Iterable[tuple[Item, list[Segment]]]
) -> Iterator[tuple[Item, NDArray[np.float64]]]:
    """Yield each item with the scores of its segments; those of consecutive items are scored together."""
    waiting: list[tuple[Item, int]] = []
    segments: list[Segment] = []
    first = 0
    for item, own in requests:
        waiting.append((item, len(own)))
        segments += own
        if len(segments) >= _TOGETHER:
            yield from _scored(scorer, waiting, segments, first)
            first += len(segments)
            waiting, segments = [], []
    yield from _scored(scorer, waiting, segments, first)


def _scored(
    scorer: OpenScorer, waiting: list[tuple[Item, int]], segments: list[Segment], first: int
) -> Iterator[tuple[Item, NDArray[np.float64]]]:
    scores, start = scorer.score(segments, first=first), 0
    for item, count in waiting:
        yield item, scores[start : start + count]
        start += count
