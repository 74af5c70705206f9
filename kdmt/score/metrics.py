"""BLEU and chrF as sacreBLEU computes them, each score together with its signature.

Scores run from 0 to 100. This module imports nothing of kdmt and no torch, and sacreBLEU only when a score is asked
for, so that anyone may use it: validation, selection among n-best, the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF


@dataclass(frozen=True)
class Metric:
    """A score and the sacreBLEU signature without which it means little."""

    score: float  # 0 to 100
    signature: str  # as `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0`


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False
) -> Metric:
    """Corpus BLEU (Papineni et al. 2002) of one system against one reference a line.

    Args:
        hypotheses: detokenised text, unless `tokenize` is "none": then words are what stands between spaces.
        references: line i is the reference of hypothesis i.
        tokenize: sacreBLEU's tokenizer: 13a, intl, none, zh, ja-mecab, ko-mecab, char.
        lowercase: compare without regard to case.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    _check_lines(hypotheses, references)
    metric = bleu_metric(tokenize=tokenize, lowercase=lowercase)
    return Metric(metric.corpus_score(hypotheses, [references]).score, str(metric.get_signature()))


def chrf(hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool = False) -> Metric:
    """Corpus chrF2 (Popović 2015): character 1- to 6-grams, no word n-grams, recall weighs twice.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    _check_lines(hypotheses, references)
    metric = chrf_metric(lowercase=lowercase)
    return Metric(metric.corpus_score(hypotheses, [references]).score, str(metric.get_signature()))


def sentence_bleu(hypothesis: str, reference: str, *, tokenize: str = "13a", lowercase: bool = False) -> Metric:
    """BLEU of one sentence: exponential smoothing over its effective order, as `sacrebleu --sentence-level`.

    The k-th n-gram order without a match gets precision 1 / (2^k · total) (Chen and Cherry 2014, method 3), and
    orders longer than the hypothesis are left out of the mean.
    """
    metric = bleu_metric(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    return Metric(metric.sentence_score(hypothesis, [reference]).score, str(metric.get_signature()))


def sentence_chrf(hypothesis: str, reference: str, *, lowercase: bool = False) -> Metric:
    """chrF2 of one sentence."""
    metric = chrf_metric(lowercase=lowercase)
    return Metric(metric.sentence_score(hypothesis, [reference]).score, str(metric.get_signature()))


@lru_cache
def bleu_metric(*, tokenize: str, lowercase: bool, effective_order: bool = False) -> BLEU:
    """sacreBLEU's own object, kept because sentence scores ask for it millions of times."""
    from sacrebleu.metrics.bleu import BLEU

    # `force` only silences the warning that the text looks tokenised, which is what "none" asks for.
    return BLEU(lowercase=lowercase, tokenize=tokenize, effective_order=effective_order, force=tokenize == "none")


@lru_cache
def chrf_metric(*, lowercase: bool) -> CHRF:
    """sacreBLEU's own object, see `bleu_metric`."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(lowercase=lowercase)


def _check_lines(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses against {len(references)} references")
    if not hypotheses:
        raise ValueError("there is no sentence to score")
