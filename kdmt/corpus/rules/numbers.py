"""The rule that the numbers of both sides agree."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText

_DIGITS = re.compile(r"\d+")
# Digits with separators between them: 1,000  1.000  1'000  3.14  10:30; and groups of three digits between spaces.
_NUMBER = re.compile(r"\d{1,3}(?: \d{3})+(?![\d.,]*\d)|\d+(?:[.,:'\u2019\u066b\u066c\u00a0\u202f]\d+)*")
_SEPARATORS = re.compile(r"\D")


def find_numbers(line: LineText) -> frozenset[str]:
    """Return the numbers of a line as strings of ASCII digits without separators and leading zeros."""
    return frozenset(_plain(_SEPARATORS.sub("", number)) for number in _NUMBER.findall(line.text))


def find_digits(line: LineText) -> frozenset[str]:
    """Return the runs of digits of a line as strings of ASCII digits without leading zeros."""
    return frozenset(map(_plain, _DIGITS.findall(line.text)))


def _plain(digits: str) -> str:
    if not digits.isascii():
        digits = "".join(str(unicodedata.decimal(digit)) for digit in digits)
    return digits.lstrip("0") or "0"


def agreement(source: frozenset[str], target: frozenset[str]) -> float:
    """Return (common + 1) / (differing + 1) of two sets."""
    return (len(source & target) + 1) / (len(source ^ target) + 1)


@dataclass(frozen=True)
class Numbers:
    """Drop pairs whose sides have different numbers (`kdmt.config.rules.Numbers`)."""

    settings: settings.Numbers
    languages: LanguagePair
    name: ClassVar[str] = "numbers"

    def breaks(self, pair: PairText) -> bool:
        """Return whether the agreement of the numbers, and of their parts, is too small."""
        source, target = pair.lines
        # their parts come first, because they are found faster and agree in most pairs
        return all(agreement(find(source), find(target)) < self.settings.min for find in (find_digits, find_numbers))
