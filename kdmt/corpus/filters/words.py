"""Words of lines as ids of a vocabulary, for the filters that count words."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_WORDS = 100  # of a line; the rest is ignored
_WORD = re.compile(r"\w+")

Ids = NDArray[np.int64]


def split_words(line: str, *, spaced: bool) -> list[str]:
    """Return the words of a line in lower case without punctuation, or its characters if there are no spaces."""
    lowered = line.casefold()
    words = _WORD.findall(lowered) if spaced else [character for character in lowered if character.isalnum()]
    return words[:MAX_WORDS]


@dataclass(frozen=True)
class WordIds:
    """Ids of the words of one language: the unknown word is 0, the others follow by frequency.

    Attributes:
        ids: word -> id.
        spaced: whether the language is written with spaces between words.
    """

    ids: dict[str, int]
    spaced: bool

    def __len__(self) -> int:
        """Return the number of ids, with that of the unknown word."""
        return len(self.ids) + 1

    def encode(self, line: str) -> Ids:
        """Return the ids of the words of a line."""
        return np.array([self.ids.get(word, 0) for word in split_words(line, spaced=self.spaced)], dtype=np.int64)


def count_vocabulary(lines: Iterable[str], *, spaced: bool, min_count: int, max_words: int) -> WordIds:
    """Return the ids of the words that occur at least `min_count` times, at most the `max_words` most frequent ones."""
    counts = collections.Counter(word for line in lines for word in split_words(line, spaced=spaced))
    frequent = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
    return WordIds({word: index for index, word in enumerate(frequent[:max_words], start=1)}, spaced)
