"""Metrics of translation quality, in one table: BLEU and chrF as sacreBLEU computes them.

A score is a value with its signature, its direction and its range. To add a metric, write the function that makes its
sacreBLEU object and name it in `METRICS`: the report, scores.json, the significance tests and validation go by the
table. A metric that training may choose checkpoints by is listed as `BestMetric` in `kdmt.choices` too.

This module imports nothing of kdmt and no torch, and sacreBLEU only when a score is computed, so that every package may
use it: validation, selection among n-best hypotheses, the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as SacreMetric
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

Range = tuple[float, float | None]  # lowest and highest value; None where there is no bound


@dataclass(frozen=True)
class MetricScore:
    """A value of a metric with what is needed to read it."""

    value: float
    signature: str  # such as `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0`
    higher_is_better: bool = True
    range: Range = (0.0, 100.0)


@dataclass(frozen=True)
class Metric:
    """How a metric is computed and read.

    Attributes:
        label: the name in tables.
        make: returns the sacreBLEU object for a tokenizer and a case setting; a metric may ignore the tokenizer.
        higher_is_better: the direction.
        range: lowest and highest value.
        depends_on_tokens: whether tokenised and detokenised text have different scores, so that both are reported.
    """

    label: str
    make: Callable[[str, bool], SacreMetric]
    higher_is_better: bool = True
    range: Range = (0.0, 100.0)
    depends_on_tokens: bool = False

    @property
    def worst(self) -> float | None:
        """The value of the worst translation; None where there is no bound."""
        return self.range[0] if self.higher_is_better else self.range[1]

    def score(
        self, hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False
    ) -> MetricScore:
        """Return the corpus score of one system against one reference a line.

        Args:
            hypotheses: detokenised text, unless `tokenize` is "none".
            references: line i is the reference of hypothesis i.
            tokenize: sacreBLEU's tokenizer: 13a, intl, none, zh, ja-mecab, ko-mecab, char.
            lowercase: compare without regard to case.

        Raises:
            ValueError: the two differ in length, or are empty.
        """
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} hypotheses against {len(references)} references")
        if not hypotheses:
            raise ValueError("there is no sentence to score")
        metric = self.make(tokenize, lowercase)
        value = metric.corpus_score(hypotheses, [references]).score
        return self.with_direction(value, str(metric.get_signature()))

    def with_direction(self, value: float, signature: str) -> MetricScore:
        """Return a value of this metric as a score."""
        return MetricScore(value, signature, self.higher_is_better, self.range)


def _bleu(tokenize: str, lowercase: bool) -> BLEU:
    return bleu_metric(tokenize=tokenize, lowercase=lowercase)


def _chrf(_: str, lowercase: bool) -> CHRF:
    return chrf_metric(lowercase=lowercase)


# name, as in settings and files -> metric, in the order of tables
METRICS: dict[str, Metric] = {
    "bleu": Metric("BLEU", _bleu, depends_on_tokens=True),
    "chrf": Metric("chrF", _chrf),
}
MAIN_METRIC = "bleu"  # whose p-values the table shows and whose value the plot


def metric_label(name: str) -> str:
    """Return the name of a metric in tables; an unknown one keeps its name."""
    return METRICS[name].label if name in METRICS else name


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False
) -> MetricScore:
    """Return corpus BLEU (Papineni et al. 2002). See `Metric.score`."""
    return METRICS["bleu"].score(hypotheses, references, tokenize=tokenize, lowercase=lowercase)


def chrf(hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool = False) -> MetricScore:
    """Return corpus chrF2 (Popović 2015): character 1- to 6-grams, no word n-grams, recall weighs twice.

    See `Metric.score`.
    """
    return METRICS["chrf"].score(hypotheses, references, lowercase=lowercase)


def sentence_bleu(hypothesis: str, reference: str, *, tokenize: str = "13a", lowercase: bool = False) -> MetricScore:
    """Return BLEU of one sentence: exponential smoothing over its effective order, as `sacrebleu --sentence-level`.

    The k-th n-gram order without a match gets precision 1 / (2^k · total) (Chen and Cherry 2014, method 3), and
    orders longer than the hypothesis are left out of the mean.
    """
    metric = bleu_metric(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    value = metric.sentence_score(hypothesis, [reference]).score
    return METRICS["bleu"].with_direction(value, str(metric.get_signature()))


def sentence_chrf(hypothesis: str, reference: str, *, lowercase: bool = False) -> MetricScore:
    """Return chrF2 of one sentence."""
    metric = chrf_metric(lowercase=lowercase)
    value = metric.sentence_score(hypothesis, [reference]).score
    return METRICS["chrf"].with_direction(value, str(metric.get_signature()))


@lru_cache
def bleu_metric(*, tokenize: str, lowercase: bool, effective_order: bool = False) -> BLEU:
    """Return sacreBLEU's own object. It is cached, because sentence scores need it millions of times."""
    from sacrebleu.metrics.bleu import BLEU

    # `force` only silences the warning that the text looks tokenised, which is what "none" is for
    return BLEU(lowercase=lowercase, tokenize=tokenize, effective_order=effective_order, force=tokenize == "none")


@lru_cache
def chrf_metric(*, lowercase: bool) -> CHRF:
    """Return sacreBLEU's own object. See `bleu_metric`."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(lowercase=lowercase)
