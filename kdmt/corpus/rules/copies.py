"""Rules for pairs whose sides are the same text, or almost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rapidfuzz.distance import Levenshtein

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, PairText

ROUNDING = 1e-9  # more than the error of the product


@dataclass(frozen=True)
class Copy:
    """Drop pairs whose target equals the source."""

    name: ClassVar[str] = "copy"

    def breaks(self, pair: PairText) -> bool:
        """Return whether both sides are equal."""
        return pair.source == pair.target


@dataclass(frozen=True)
class NearCopy:
    """Drop pairs whose sides are almost equal (`kdmt.config.rules.NearCopy`)."""

    settings: settings.NearCopy
    languages: LanguagePair
    name: ClassVar[str] = "near_copy"

    def breaks(self, pair: PairText) -> bool:
        """Return whether the similarity of the sides is too large."""
        longer = max(len(pair.source), len(pair.target))
        most = int((1.0 - self.settings.max) * longer + ROUNDING)  # edits of a pair that is dropped
        distance: int = Levenshtein.distance(pair.source, pair.target, score_cutoff=most)
        return distance <= most  # a distance above the cutoff is returned as the cutoff plus 1
