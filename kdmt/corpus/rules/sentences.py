"""The rule that both sides have about as many sentences."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import ClassVar

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText
from kdmt.languages import script_of

# Final punctuation with closing quotes and brackets before a space or the end; that of scripts without spaces anywhere.
_END = re.compile(
    "[.!?\u2026\u203c-\u2049\u0589\u061f\u06d4\u1362\u1367\u1368\u0964\u0965\u17d4\u17d5\u104b]"
    "[\"'\u2019\u201c\u201d\u00ab\u00bb\u2039\u203a)\\]]*(?: |$)|[\u3002\uff01\uff1f\uff61]+"
)
_WITHOUT_ENDS = frozenset(("Thai", "Laoo", "Tibt"))  # spaces and shad marks separate more than sentences


def count_sentences(text: str) -> int:
    """Return the number of sentences of a line, at least 1."""
    return len(_END.findall(text)) or 1


def _most_sentences(line: LineText) -> int:
    """Return an upper bound of the number of sentences of a line: a fast test."""
    text = line.text
    return text.count(".") + text.count("!") + text.count("?") + len(line.signs)


@dataclass(frozen=True)
class Sentences:
    """Drop pairs with different numbers of sentences (`kdmt.config.rules.Sentences`)."""

    settings: settings.Sentences
    languages: LanguagePair
    name: ClassVar[str] = "sentences"

    @functools.cached_property
    def _applies(self) -> bool:
        return not any(script_of(code) in _WITHOUT_ENDS for code in self.languages.codes or ())

    def breaks(self, pair: PairText) -> bool:
        """Return whether the numbers of sentences differ by too much."""
        source, target = pair.lines
        limit = self.settings.max_difference
        if not self._applies or (_most_sentences(source) <= limit + 1 and _most_sentences(target) <= limit + 1):
            return False
        return abs(count_sentences(pair.source) - count_sentences(pair.target)) > limit
