"""Rules about text that occurs several times in a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText

_LONGEST_PHRASE = 200  # characters of a phrase that is looked for


@dataclass(frozen=True)
class RepeatedCharacters:
    """Drop pairs with one character many times in a row (`kdmt.config.rules.RepeatedCharacters`)."""

    settings: settings.RepeatedCharacters
    languages: LanguagePair
    name: ClassVar[str] = "repeated_characters"

    def breaks(self, pair: PairText) -> bool:
        """Return whether a side has too many equal characters in a row."""
        times = self.settings.max + 1
        return has_run(pair.source, times) or has_run(pair.target, times)


def has_run(text: str, times: int) -> bool:
    """Return whether a character occurs `times` times in a row."""
    # every run of this length has a character at a multiple of its length
    for character in text[::times]:  # noqa: SIM110 - a generator takes twice the time
        if character * times in text:
            return True
    return False


@dataclass(frozen=True)
class RepeatedPhrases:
    """Drop pairs with one phrase several times in a row (`kdmt.config.rules.RepeatedPhrases`)."""

    settings: settings.RepeatedPhrases
    languages: LanguagePair
    name: ClassVar[str] = "repeated_phrases"

    def breaks(self, pair: PairText) -> bool:
        """Return whether a side repeats a phrase."""
        source, target = pair.lines
        of_source, of_target = self.languages.spaced
        return repeats_phrase(source, of_source, self.settings) or repeats_phrase(target, of_target, self.settings)


def repeats_phrase(line: LineText, spaced: bool, wanted: settings.RepeatedPhrases) -> bool:
    """Return whether a phrase of words, or of characters of text without spaces, occurs several times in a row."""
    text, times = line.text, wanted.times
    if len(text) < times * wanted.min_length:
        return False
    units = line.words if spaced else text
    # a phrase of n words adds n · (times - 1) repeated ones
    if (spaced and len(units) - len(set(units)) < times - 1) or not _may_repeat(text, times, wanted.min_length):
        return False
    for period in range(1, min(len(units) // times, _LONGEST_PHRASE) + 1):
        for start in _find_period(units, period, times):
            if wanted.min_length <= _length(units[start : start + period], spaced) <= _LONGEST_PHRASE:
                return True
    return False


def _may_repeat(text: str, times: int, length: int) -> bool:
    """Return whether a phrase of at least `length` characters may occur several times in a row: a fast test.

    A repeated phrase and the space after it make a period of p characters. `length` characters at one of the first
    places of the repetition occur again p characters later, and so does the rest of it but the last p characters.
    """
    if times == 2:  # these characters may go beyond the repetition
        return True
    for place in range(0, len(text) - 2 * length + 1, length):
        part, end = text[place : place + length], place + _LONGEST_PHRASE + 1 + length
        found = text.find(part, place + 1, end)
        while found >= 0:
            period = found - place
            rest = max(0, (times - 1) * period - length)
            if text[place : place + rest] == text[found : found + rest]:
                return True
            found = text.find(part, found + 1, end)
    return False


def _find_period(units: Sequence[str], period: int, times: int) -> Iterator[int]:
    """Yield the indices from which `times` equal sequences of `period` units follow each other."""
    needed, run = (times - 1) * period, 0
    for index, (unit, later) in enumerate(zip(units, units[period:], strict=False)):
        run = run + 1 if unit == later else 0
        if run >= needed:
            yield index - needed + 1


def _length(phrase: Sequence[str], spaced: bool) -> int:
    """Return the number of characters of a phrase."""
    return len(" ".join(phrase)) if spaced else len(phrase)
