"""References of test sets with their settings for scoring.

Text that is tokenised or lowercased has two forms: finished text, and words in the form that the tokenizer reads. Their
scores are not comparable. The first form is the one that `score.detokenized` selects; the other one is reported in
addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdmt.score.metrics import DEFAULT_METRICS, METRICS, MetricScore


@dataclass(frozen=True)
class References:
    """References of a test set in one form of its text."""

    references: list[str]
    tokenize: str  # sacreBLEU's tokenizer
    lowercase: bool = False
    further: Sequence[Sequence[str]] = ()  # further references, each with a line per sentence
    spbleu_model: str | None = None  # path of the SentencePiece model of spBLEU

    def part(self, indices: Sequence[int]) -> References:
        """Return the references of some of the sentences."""
        further = [[lines[i] for i in indices] for lines in self.further]
        return replace(self, references=[self.references[i] for i in indices], further=further)

    def score(self, hypotheses: Sequence[str], metrics: Sequence[str]) -> dict[str, MetricScore]:
        """Return the score of hypotheses in the same form for each metric, given by its name."""
        return {
            name: METRICS[name].score(
                hypotheses,
                self.references,
                further=self.further,
                tokenize=self.tokenize,
                lowercase=self.lowercase,
                spbleu_model=self.spbleu_model,
            )
            for name in metrics
        }


@dataclass(frozen=True)
class TestSet:
    """Test set in one or both forms of its text."""

    __test__ = False  # prevents pytest from collecting this class as tests

    first: References
    second: References | None = None
    metrics: Sequence[str] = DEFAULT_METRICS  # names in `METRICS`

    def score(
        self, first: Sequence[str], second: Sequence[str]
    ) -> tuple[dict[str, MetricScore], dict[str, MetricScore]]:
        """Return the scores of hypotheses that are given in both forms.

        Returns:
            Two mappings from metric to score: all metrics for the first form, and for the second form, if there is one,
            the metrics that depend on tokens.
        """
        scores = self.first.score(first, self.metrics)
        if self.second is None:
            return scores, {}
        depending = [name for name in self.metrics if METRICS[name].depends_on_tokens]
        return scores, self.second.score(second, depending)
