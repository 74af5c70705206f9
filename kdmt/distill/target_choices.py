"""Table of the rules that choose training targets among the teacher's hypotheses.

Each entry is a training set of origin `choice` in `kdmt.training_sets`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kdmt.choices import MbrUtility
from kdmt.config import Distill
from kdmt.distill.mbr import CHRF, ExpectedUtility, Utility, bleu_utility, by_expected_utility
from kdmt.distill.selection import HIGHEST_GIVEN, Selector, interpolated, weighted
from kdmt.distill.similarity import bleu_nearness, chrf_nearness


def _never(_: Distill) -> bool:
    return False


@dataclass(frozen=True)
class Choice:
    """An entry of the table.

    Attributes:
        select: (settings, name of sacreBLEU's tokenizer) -> rule.
        uses_bleu: settings -> whether the rule depends on the tokenizer.
    """

    select: Callable[[Distill, str], Selector]
    uses_bleu: Callable[[Distill], bool] = _never


def _nearest_to_reference(settings: Distill, tokenize: str) -> Selector:
    nearness = chrf_nearness if settings.interpolate == "chrf" else bleu_nearness(tokenize)
    return interpolated(nearness)


# name in `distill.mbr.utility` -> function of the name of sacreBLEU's tokenizer
UTILITIES: dict[MbrUtility, Callable[[str], Utility]] = {"chrf": lambda _: CHRF, "bleu": bleu_utility}


def expected_utility(settings: Distill, tokenize: str) -> ExpectedUtility:
    """Return the expected utility that the section `distill.mbr` describes."""
    return ExpectedUtility.of(settings.mbr, UTILITIES[settings.mbr.utility](tokenize), settings.decode.lenpen)


def _highest_utility(settings: Distill, tokenize: str) -> Selector:
    return by_expected_utility(expected_utility(settings, tokenize), top=settings.mbr.top)


CHOICES = {
    # the hypothesis most similar to the reference (Kim & Rush 2016, sequence-level interpolation)
    "interpolated": Choice(_nearest_to_reference, lambda settings: settings.interpolate == "sentence_bleu"),
    # the hypotheses most similar to the others (minimum Bayes risk)
    "mbr": Choice(_highest_utility, lambda settings: settings.mbr.utility == "bleu"),
    # the hypothesis with the highest score in a file
    "scored": Choice(lambda _, __: HIGHEST_GIVEN),
    # all hypotheses, weighted by their probabilities
    "nbest": Choice(lambda settings, _: weighted(settings.decode.lenpen)),
}
