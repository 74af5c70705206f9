"""Table of the rules that choose training targets among the teacher's hypotheses.

Each entry is a training set of origin `choice` in `kdmt.training_sets`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from kdmt.config import Distill
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.distill.diversity import Quality, diverse, token_probability
from kdmt.distill.mbr import (
    CHRF,
    COARSE,
    ExpectedUtility,
    GivenUtility,
    Utility,
    bleu_utility,
    by_expected_utility,
)
from kdmt.distill.rerank import Features, by_linear_model
from kdmt.distill.selection import HIGHEST_GIVEN, Selector, interpolated, weighted
from kdmt.distill.similarity import bleu_nearness, chrf_nearness


def _never(_: Distill) -> bool:
    return False


@dataclass(frozen=True)
class Choice:
    """An entry of the table.

    Attributes:
        select: (settings, name of sacreBLEU's tokenizer, prepared corpus) -> rule.
        uses_bleu: settings -> whether the rule depends on the tokenizer.
        counts_tokens: settings -> whether the rule depends on the numbers of the teacher's tokens.
    """

    select: Callable[[Distill, str, PreparedCorpus], Selector]
    uses_bleu: Callable[[Distill], bool] = _never
    counts_tokens: Callable[[Distill], bool] = _never


def _nearest_to_reference(settings: Distill, tokenize: str, _: PreparedCorpus) -> Selector:
    nearness = chrf_nearness if settings.interpolate == "chrf" else bleu_nearness(tokenize)
    return interpolated(nearness)


# name in `distill.mbr.utility` -> function of the name of sacreBLEU's tokenizer
UTILITIES: dict[str, Callable[[str], Utility]] = {"chrf": lambda _: CHRF, "bleu": bleu_utility}


def expected_utility(settings: Distill, tokenize: str) -> ExpectedUtility:
    """Return the expected utility that the section `distill.mbr` describes.

    If its utility is an external scorer, the value has the comparisons to make and not the utility.
    """
    utility = COARSE if settings.mbr.scorer is not None else UTILITIES[settings.mbr.utility](tokenize)
    return ExpectedUtility.of(settings.mbr, utility, settings.decode.lenpen)


def _utility_is_bleu(settings: Distill) -> bool:
    return settings.mbr.utility == "bleu"


def _weighs_by_probability(settings: Distill) -> bool:
    return settings.mbr.weights == "probability"


def _highest_utility(settings: Distill, tokenize: str, _: PreparedCorpus) -> Selector:
    expected = expected_utility(settings, tokenize) if settings.mbr.scorer is None else GivenUtility()
    return by_expected_utility(expected, top=settings.mbr.top)


def features_of(settings: Distill, tokenize: str, corpus: PreparedCorpus) -> Features:
    """Return the features that the section `distill.rerank` describes."""
    return Features.of(
        settings.rerank,
        settings.mbr,
        expected=expected_utility(settings, tokenize),
        lenpen=settings.decode.lenpen,
        typical_ratio=corpus.typical_ratios() if "ratio" in settings.rerank.features else 1.0,
        corpus=corpus.folder,
    )


def _highest_value(settings: Distill, tokenize: str, corpus: PreparedCorpus) -> Selector:
    assert settings.rerank.weights is not None, "weights are tuned before the rule is used"
    return by_linear_model(features_of(settings, tokenize, corpus), settings.rerank.weights)


def _reranking_uses_bleu(settings: Distill) -> bool:
    tuned = settings.rerank.weights is None and settings.rerank.metric == "bleu"
    return tuned or ("mbr" in settings.rerank.features and _utility_is_bleu(settings))


def _reranking_counts_tokens(settings: Distill) -> bool:
    features = settings.rerank.features
    return not {"log_prob", "length"}.isdisjoint(features) or ("mbr" in features and _weighs_by_probability(settings))


def _different(settings: Distill, tokenize: str, _: PreparedCorpus) -> Selector:
    own, lenpen = settings.diverse, settings.decode.lenpen
    quality: Quality = partial(token_probability, lenpen=lenpen)
    if own.quality == "utility":
        quality = replace(expected_utility(settings, tokenize), prune=0)  # every candidate needs a value
    return diverse(quality, targets=own.targets, balance=own.balance)


def _quality_is_bleu(settings: Distill) -> bool:
    return settings.diverse.quality == "utility" and _utility_is_bleu(settings)


def _quality_counts_tokens(settings: Distill) -> bool:
    return settings.diverse.quality == "probability" or _weighs_by_probability(settings)


CHOICES = {
    # the hypothesis most similar to the reference (Kim & Rush 2016, sequence-level interpolation)
    "interpolated": Choice(_nearest_to_reference, lambda settings: settings.interpolate == "sentence_bleu"),
    # the hypotheses most similar to the others (minimum Bayes risk)
    "mbr": Choice(_highest_utility, _utility_is_bleu, _weighs_by_probability),
    # the hypothesis with the highest value of a linear model over features
    "reranked": Choice(_highest_value, _reranking_uses_bleu, _reranking_counts_tokens),
    # several good hypotheses that differ from each other (maximal marginal relevance)
    "diverse": Choice(_different, _quality_is_bleu, _quality_counts_tokens),
    # the hypothesis with the highest score in a file, or by an external scorer
    "scored": Choice(lambda *_: HIGHEST_GIVEN),
    # all hypotheses, weighted by their probabilities
    "nbest": Choice(lambda settings, *_: weighted(settings.decode.lenpen), counts_tokens=lambda _: True),
}
