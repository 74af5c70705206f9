"""Rules that limit the lengths of lines and words. Words are counted only on sides with spaces between words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText


@dataclass(frozen=True)
class Empty:
    """Drop pairs with an empty side."""

    name: ClassVar[str] = "empty"

    def breaks(self, pair: PairText) -> bool:
        """Return whether a side is empty."""
        return not pair.source or not pair.target


@dataclass(frozen=True)
class MinWords:
    """Drop pairs with fewer than `limit` words on a side."""

    limit: int
    spaced: tuple[bool, bool]
    name: ClassVar[str] = "min_words"

    def breaks(self, pair: PairText) -> bool:
        """Return whether a side has too few words."""
        of_source, of_target = self.spaced
        return (of_source and pair.source.count(" ") + 1 < self.limit) or (
            of_target and pair.target.count(" ") + 1 < self.limit
        )


@dataclass(frozen=True)
class MaxWords:
    """Drop pairs with more than `limit` words on a side."""

    limit: int
    spaced: tuple[bool, bool]
    name: ClassVar[str] = "max_words"

    def breaks(self, pair: PairText) -> bool:
        """Return whether a side has too many words."""
        of_source, of_target = self.spaced
        # n words have at least 2n - 1 characters, so the words of most lines need not be counted
        return (of_source and len(pair.source) > 2 * self.limit and pair.source.count(" ") >= self.limit) or (
            of_target and len(pair.target) > 2 * self.limit and pair.target.count(" ") >= self.limit
        )


@dataclass(frozen=True)
class MaxCharacters:
    """Drop pairs with more than `limit` characters on a side."""

    limit: int
    name: ClassVar[str] = "max_characters"

    def breaks(self, pair: PairText) -> bool:
        """Return whether a side has too many characters."""
        return len(pair.source) > self.limit or len(pair.target) > self.limit


@dataclass(frozen=True)
class LongestWord:
    """Drop pairs with a word of more than `max` characters (`kdmt.config.rules.LongestWord`)."""

    settings: settings.LongestWord
    languages: LanguagePair
    name: ClassVar[str] = "longest_word"

    def breaks(self, pair: PairText) -> bool:
        """Return whether a word is too long."""
        limit = self.settings.max
        of_source, of_target = self.languages.spaced
        if of_source and len(pair.source) > limit and max(map(len, pair.lines[0].words)) > limit:
            return True
        return of_target and len(pair.target) > limit and max(map(len, pair.lines[1].words)) > limit


@dataclass(frozen=True)
class MeanWord:
    """Drop pairs whose words are too short or too long on average (`kdmt.config.rules.MeanWord`)."""

    settings: settings.MeanWord
    languages: LanguagePair
    name: ClassVar[str] = "mean_word"

    def breaks(self, pair: PairText) -> bool:
        """Return whether the mean length of the words of a side is out of bounds."""
        of_source, of_target = self.languages.spaced
        source, target = pair.lines
        return (of_source and not self._fits(source)) or (of_target and not self._fits(target))

    def _fits(self, line: LineText) -> bool:
        spaces = line.num_spaces
        return self.settings.min <= (len(line.text) - spaces) / (spaces + 1) <= self.settings.max


@dataclass(frozen=True)
class LengthRatio:
    """Drop pairs with one side much shorter than the other (`kdmt.config.rules.LengthRatio`)."""

    settings: settings.LengthRatio
    languages: LanguagePair
    name: ClassVar[str] = "length_ratio"

    def breaks(self, pair: PairText) -> bool:
        """Return whether the ratio of the shorter to the longer side is too small."""
        if self.settings.unit == "characters":
            lengths = len(pair.source), len(pair.target)
        elif all(self.languages.spaced):
            lengths = pair.source.count(" ") + 1, pair.target.count(" ") + 1
        else:
            return False
        slack = self.settings.slack
        return (min(lengths) + slack) / (max(lengths) + slack) < self.settings.min
