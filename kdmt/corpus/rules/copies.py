"""Rules for pairs whose sides are the same text, or almost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rapidfuzz.distance import Levenshtein

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, PairText


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
        limit = self.settings.max
        similarity: float = Levenshtein.normalized_similarity(pair.source, pair.target, score_cutoff=limit)
        return similarity >= limit  # the similarity is 0 if it is less than the cutoff
