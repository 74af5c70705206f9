"""The rule that the numbers of both sides agree."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText

_HAS_DIGIT = re.compile(r"\d")
# digits with separators of groups and decimals between them: 1,000  1.000  1 000 (no-break)  3.14  1'000
_NUMBER = re.compile(r"\d+(?:[.,'\u2019\u066b\u066c\u00a0\u202f]\d+)*")
_SEPARATORS = re.compile(r"\D")


def find_numbers(line: LineText) -> frozenset[str]:
    """Return the numbers of a line as strings of ASCII digits without separators and leading zeros."""
    if _HAS_DIGIT.search(line.text) is None:
        return frozenset()
    return frozenset(map(_digits, _NUMBER.findall(line.text)))


def _digits(number: str) -> str:
    digits = _SEPARATORS.sub("", number)
    if not digits.isascii():
        digits = "".join(str(unicodedata.decimal(digit)) for digit in digits)
    return digits.lstrip("0") or "0"


@dataclass(frozen=True)
class Numbers:
    """Drop pairs whose sides have different numbers (`kdmt.config.rules.Numbers`)."""

    settings: settings.Numbers
    languages: LanguagePair
    name: ClassVar[str] = "numbers"

    def breaks(self, pair: PairText) -> bool:
        """Return whether (common + 1) / (differing + 1) is too small."""
        source, target = map(find_numbers, pair.lines)
        if source == target:
            return False
        return (len(source & target) + 1) / (len(source ^ target) + 1) < self.settings.min
