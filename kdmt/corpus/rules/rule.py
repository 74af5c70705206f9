"""The two kinds of cleaning rules."""

from __future__ import annotations

from typing import Protocol

from kdmt.corpus.rules.pair_text import PairText


class ChangingRule(Protocol):
    """A rule that changes lines."""

    @property
    def name(self) -> str:
        """Name of the rule, for counts."""
        ...

    def edit(self, line: str) -> str:
        """Return the line as it should be, the same object if nothing is to be changed."""
        ...


class DroppingRule(Protocol):
    """A rule that drops pairs."""

    @property
    def name(self) -> str:
        """Name of the rule, for counts and settings."""
        ...

    def breaks(self, pair: PairText) -> bool:
        """Return whether the rule drops a pair, both sides of which have at least one character."""
        ...
