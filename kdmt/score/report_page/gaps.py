"""Differences of scores between systems with bootstrap intervals, from sufficient statistics of every sentence.

A corpus metric of sacreBLEU is a function of sums over sentences, such as the numbers of matching n-grams. A resampled
test set therefore needs no sentence to be scored again: its sums are the counts of the drawn sentences times the
statistics of the sentences. All systems have the same drawn sentences.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdmt.score.metrics import METRICS
from kdmt.score.test_sets import References

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as SacreMetric

SEED = 12345
_AT_ONCE = 64  # resampled test sets whose sums are computed together
COVERED = 0.95  # share of the resampled test sets inside an interval


Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Gap:
    """Difference between the scores of two systems.

    Attributes:
        difference: difference of the scores on the test set, means over seeds.
        low, high: interval that contains the differences of 95% of the resampled test sets.
    """

    difference: float
    low: float
    high: float


class Resampled:
    """The scores of systems on resampled test sets.

    Args:
        references: references of the test set.
        metric: name of a metric in `METRICS`.
        samples: number of resampled test sets.
        seed: seed for drawing them.
    """

    def __init__(self, references: References, metric: str, *, samples: int, seed: int = SEED) -> None:
        self.metric: SacreMetric = METRICS[metric].make(
            references.tokenize, references.lowercase, references.spbleu_model
        )
        self.references = references
        self.samples, self.seed = samples, seed

    @cached_property
    def _counts(self) -> NDArray[np.uint16]:
        """Number of times that each sentence is in each resampled test set [samples, N]."""
        num_sentences = len(self.references.references)
        random = np.random.default_rng(self.seed)
        counts = np.empty((self.samples, num_sentences), dtype=np.uint16)
        for sample in counts:
            sample[:] = np.bincount(random.integers(num_sentences, size=num_sentences), minlength=num_sentences)
        return counts

    @cached_property
    def _reference_statistics(self) -> list[dict[str, object]]:
        """Statistics of the references of each sentence, which are the same for all systems [N]."""
        lines = zip(self.references.references, *self.references.further, strict=True)
        preprocess = self.metric._preprocess_segment
        return [self.metric._extract_reference_info(list(map(preprocess, each))) for each in lines]

    def scores(self, hypotheses: Sequence[str]) -> NDArray[np.float64]:
        """Return the score on the test set, followed by the scores on the resampled ones [1 + samples].

        Args:
            hypotheses: translations in the same form as the references [N].
        """
        preprocess, extract = self.metric._preprocess_segment, self.metric._compute_segment_statistics
        statistics = np.array(
            [
                extract(preprocess(line), known)
                for line, known in zip(hypotheses, self._reference_statistics, strict=True)
            ],
            dtype=np.float64,
        )
        parts = np.array_split(self._counts, -(-self.samples // _AT_ONCE))  # converted to floats part by part
        sums = np.vstack([statistics.sum(axis=0, keepdims=True), *(part @ statistics for part in parts)])
        return np.array([self.metric._compute_score_from_stats(each).score for each in sums.tolist()])


def find_gaps(
    pairs: Sequence[tuple[Key, Key]], hypotheses: Mapping[Key, Sequence[Sequence[str]]], resampled: Resampled
) -> list[Gap]:
    """Return the difference of each pair of systems, that of the first minus that of the second.

    Args:
        pairs: keys of systems.
        hypotheses: key of a system -> translations of each of its seeds.
        resampled: the resampled test sets.
    """
    wanted = dict.fromkeys(key for pair in pairs for key in pair)
    scores = {key: np.mean([resampled.scores(lines) for lines in hypotheses[key]], axis=0) for key in wanted}
    tail = 100 * (1 - COVERED) / 2
    gaps = []
    for first, second in pairs:
        difference = scores[first] - scores[second]
        low, high = np.percentile(difference[1:], [tail, 100 - tail])
        gaps.append(Gap(float(difference[0]), float(low), float(high)))
    return gaps
