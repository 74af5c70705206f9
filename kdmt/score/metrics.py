"""Table of metrics of translation quality: BLEU, chrF, chrF++, TER and spBLEU by sacreBLEU.

A score is a value with its signature, its direction and its range. To add a metric, write the function that creates its
sacreBLEU object, add it to `METRICS`, and add its name to `ScoreMetric` in `kdmt.choices`, the names that
`score.metrics` may have: the report, scores.json, the significance tests and validation use the table. A metric for the
selection of checkpoints in training must also be added to `BestMetric` there.

When it is imported, this module loads neither kdmt, torch nor sacreBLEU; sacreBLEU is loaded when a score is computed.
Every package can therefore use it: validation, selection among n-best hypotheses, the report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as SacreMetric
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

Range = tuple[float | None, float | None]  # lowest and highest value; None for no bound


@dataclass(frozen=True)
class MetricScore:
    """Value of a metric with its signature, direction and range."""

    value: float
    signature: str  # such as `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0`
    higher_is_better: bool = True
    range: Range = (0.0, 100.0)


@dataclass(frozen=True)
class Metric:
    """Metric: how it is computed, and the direction and range of its values.

    Attributes:
        label: name in tables.
        make: function that returns the sacreBLEU object for a tokenizer, a case setting and the path of the model of
            spBLEU; a metric may ignore the tokenizer, and only spBLEU has a model.
        higher_is_better: whether a higher value is better.
        range: lowest and highest value.
        depends_on_tokens: whether tokenised and detokenised text have different scores, so that both are reported.
    """

    label: str
    make: Callable[[str, bool, str | None], SacreMetric]
    higher_is_better: bool = True
    range: Range = (0.0, 100.0)
    depends_on_tokens: bool = False

    @property
    def worst(self) -> float | None:
        """Value of the worst translation; None if there is no bound on its side."""
        return self.range[0] if self.higher_is_better else self.range[1]

    def score(
        self,
        hypotheses: Sequence[str],
        references: Sequence[str],
        *,
        further: Sequence[Sequence[str]] = (),
        tokenize: str = "13a",
        lowercase: bool = False,
        spbleu_model: str | None = None,
    ) -> MetricScore:
        """Return the corpus score of one system against one or more references per line.

        Args:
            hypotheses: detokenised text, unless `tokenize` is "none".
            references: line i is the reference of hypothesis i.
            further: further references in the same form.
            tokenize: sacreBLEU's tokenizer: 13a, intl, none, zh, ja-mecab, ko-mecab, char.
            lowercase: compare without regard to case.
            spbleu_model: path of the SentencePiece model of spBLEU.

        Raises:
            ValueError: if hypotheses and references differ in length or are empty.
        """
        for each in (references, *further):
            if len(hypotheses) != len(each):
                raise ValueError(f"{len(hypotheses)} hypotheses against {len(each)} references")
        if not hypotheses:
            raise ValueError("there is no sentence to score")
        metric = self.make(tokenize, lowercase, spbleu_model)
        value = metric.corpus_score(hypotheses, [references, *further]).score
        return self.with_direction(value, str(metric.get_signature()))

    def with_direction(self, value: float, signature: str) -> MetricScore:
        """Return a value of this metric as a score."""
        return MetricScore(value, signature, self.higher_is_better, self.range)


def _bleu(tokenize: str, lowercase: bool, _: str | None) -> BLEU:
    return bleu_metric(tokenize=tokenize, lowercase=lowercase)


def _chrf(_: str, lowercase: bool, __: str | None) -> CHRF:
    return chrf_metric(lowercase=lowercase)


def _chrf_plus_plus(_: str, lowercase: bool, __: str | None) -> CHRF:
    return chrf_metric(lowercase=lowercase, word_order=2)


def _ter(tokenize: str, lowercase: bool, _: str | None) -> TER:
    return ter_metric(tokenize=tokenize, lowercase=lowercase)


def _spbleu(_: str, lowercase: bool, model: str | None) -> BLEU:
    if model is None:
        raise ValueError("spBLEU needs the path of its SentencePiece model")
    return spbleu_metric(model=model, lowercase=lowercase)


# name in settings and files -> metric, in the order of the tables
METRICS: dict[str, Metric] = {
    "bleu": Metric("BLEU", _bleu, depends_on_tokens=True),
    "chrf": Metric("chrF", _chrf),
    "chrf++": Metric("chrF++", _chrf_plus_plus, depends_on_tokens=True),
    "ter": Metric("TER", _ter, higher_is_better=False, range=(0.0, None), depends_on_tokens=True),
    "spbleu": Metric("spBLEU", _spbleu, depends_on_tokens=True),
}
DEFAULT_METRICS = ("bleu", "chrf")
_MAIN_METRIC = "bleu"
_CJK_TOKENIZERS = ("zh", "ja-mecab")


def main_metric(names: Sequence[str]) -> str:
    """Return the metric of the p-values in tables and of the scores in plots: BLEU, or the first one without BLEU."""
    return _MAIN_METRIC if _MAIN_METRIC in names else names[0]


def metric_label(name: str) -> str:
    """Return the label of a metric in tables; an unknown metric keeps its name."""
    return METRICS[name].label if name in METRICS else name


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False
) -> MetricScore:
    """Return corpus BLEU (Papineni et al. 2002). See `Metric.score`."""
    return METRICS["bleu"].score(hypotheses, references, tokenize=tokenize, lowercase=lowercase)


def chrf(hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool = False) -> MetricScore:
    """Return corpus chrF2 (Popović 2015): character 1- to 6-grams, no word n-grams, recall has twice the weight.

    See `Metric.score`.
    """
    return METRICS["chrf"].score(hypotheses, references, lowercase=lowercase)


def sentence_bleu(hypothesis: str, reference: str, *, tokenize: str = "13a", lowercase: bool = False) -> MetricScore:
    """Return BLEU of one sentence with exponential smoothing and effective order, as `sacrebleu --sentence-level`.

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
    """Return sacreBLEU's BLEU object. It is cached, because sentence scores need it millions of times."""
    from sacrebleu.metrics.bleu import BLEU

    # `force` only suppresses the warning that the text looks tokenised, which is expected with "none"
    return BLEU(lowercase=lowercase, tokenize=tokenize, effective_order=effective_order, force=tokenize == "none")


@lru_cache
def chrf_metric(*, lowercase: bool, word_order: int = 0) -> CHRF:
    """Return sacreBLEU's chrF object, with `word_order=2` that of chrF++ (Popović 2017). See `bleu_metric`."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(lowercase=lowercase, word_order=word_order)


@lru_cache
def ter_metric(*, tokenize: str, lowercase: bool) -> TER:
    """Return sacreBLEU's TER object (Snover et al. 2006). See `bleu_metric`.

    Words are what is between spaces. For Chinese and Japanese text, given by the tokenizer of BLEU, each character is a
    word, which needs the normalisation of punctuation. For other text, punctuation is not normalised, as in sacreBLEU.
    """
    from sacrebleu.metrics.ter import TER

    is_cjk = tokenize in _CJK_TOKENIZERS
    return TER(case_sensitive=not lowercase, normalized=is_cjk, asian_support=is_cjk)


class _PieceTokenizer:
    """Tokenizer for sacreBLEU that splits text into the pieces of a SentencePiece model.

    sacreBLEU's own tokenizers of this kind download their models.
    """

    def __init__(self, model: str) -> None:
        from sentencepiece import SentencePieceProcessor

        path = Path(model)
        self._processor = SentencePieceProcessor(model_file=model)
        self._signature = f"spm-{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"

    def __call__(self, line: str) -> str:
        return " ".join(self._processor.encode(line, out_type=str))

    def signature(self) -> str:
        return self._signature


@lru_cache
def spbleu_metric(*, model: str, lowercase: bool) -> BLEU:
    """Return sacreBLEU's BLEU object for pieces of a SentencePiece model (Goyal et al. 2022). See `bleu_metric`.

    Args:
        model: path of the model, of which the signature has the beginning of the SHA-256.
    """
    from sacrebleu.metrics.bleu import BLEU

    metric, tokenizer = BLEU(lowercase=lowercase, tokenize="none", force=True), _PieceTokenizer(model)
    metric.tokenizer, metric.tokenizer_signature = tokenizer, tokenizer.signature()
    return metric
