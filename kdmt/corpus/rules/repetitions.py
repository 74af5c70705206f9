"""Rules about text that occurs several times in a row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText

LONGEST_PHRASE = 200  # characters of a phrase that is looked for


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
    if spaced:
        return _repeats_words(line.words, wanted)
    if not _may_repeat(text, times, wanted.min_length):
        return False
    periods = range(wanted.min_length, min(len(text) // times, LONGEST_PHRASE) + 1)
    return any(_has_period(text, period, times) for period in periods)


def frequent_words(words: Sequence[str], times: int) -> set[str]:
    """Return the words that occur at least `times` times."""
    if len(words) - len(set(words)) < times - 1:
        return set()
    ordered = sorted(words)
    return {word for word, later in zip(ordered, ordered[times - 1 :], strict=False) if word == later}


def _repeats_words(words: Sequence[str], wanted: settings.RepeatedPhrases) -> bool:
    """Return whether a phrase of words occurs several times in a row."""
    times = wanted.times
    frequent = frequent_words(words, times)
    if not frequent:
        return False
    places: dict[str, list[int]] = {word: [] for word in frequent}
    for place, word in enumerate(words):
        if word in frequent:
            places[word].append(place)
    # the first word of a phrase of n words occurs again n words later
    for same in places.values():
        for number, start in enumerate(same):
            longest = min((len(words) - start) // times, LONGEST_PHRASE)
            for later in itertools.islice(same, number + 1, None):
                period = later - start
                if period > longest:
                    break
                if _is_repeated(words, start, period, wanted):
                    return True
    return False


def _is_repeated(words: Sequence[str], start: int, period: int, wanted: settings.RepeatedPhrases) -> bool:
    """Return whether a phrase of words that begins at an index is repeated, and its length is within the limits."""
    needed = (wanted.times - 1) * period
    phrase_end = start + period
    if words[phrase_end - 1] != words[phrase_end - 1 + period]:  # a fast test
        return False
    return (
        words[start : start + needed] == words[phrase_end : phrase_end + needed]
        and wanted.min_length <= len(" ".join(words[start:phrase_end])) <= LONGEST_PHRASE
    )


def _may_repeat(text: str, times: int, length: int) -> bool:
    """Return whether a phrase of at least `length` characters may occur several times in a row: a fast test.

    A repeated phrase and the space after it make a period of p characters. `length` characters at one of the first
    places of the repetition occur again p characters later, and so does the rest of it but the last p characters.
    """
    if times == 2:  # these characters may go beyond the repetition
        return True
    for place in range(0, len(text) - 2 * length + 1, length):
        part, end = text[place : place + length], place + LONGEST_PHRASE + 1 + length
        found = text.find(part, place + 1, end)
        while found >= 0:
            period = found - place
            rest = max(0, (times - 1) * period - length)
            if text[place : place + rest] == text[found : found + rest]:
                return True
            found = text.find(part, found + 1, end)
    return False


def _has_period(text: str, period: int, times: int) -> bool:
    """Return whether `times` equal sequences of `period` characters follow each other."""
    needed, run = (times - 1) * period, 0
    for character, later in zip(text, text[period:], strict=False):
        run = run + 1 if character == later else 0
        if run >= needed:
            return True
    return False
