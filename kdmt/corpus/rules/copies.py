"""Rules for pairs whose sides are the same text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdmt.corpus.rules.pair_text import PairText


@dataclass(frozen=True)
class Copy:
    """Drop pairs whose target equals the source."""

    name: ClassVar[str] = "copy"

    def breaks(self, pair: PairText) -> bool:
        """Return whether both sides are equal."""
        return pair.source == pair.target
