"""Vocabulary of outputs: lexical diversity, recall of rare words, and copied words.

Sources: McCarthy and Jarvis, "MTLD, vocd-D, and HD-D", 2010 (measure of textual lexical diversity), which Vanmassenhove
et al., "Machine Translationese", 2021, apply to machine translation; Ott et al., "Analyzing Uncertainty in Neural
Machine Translation", 2018 (copies of the source).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MTLD_RATIO = 0.72
RARE = 5
COPIED_SHARE = 0.5

Words = Sequence[str]
Ratios = NDArray[np.float64]  # numerator and denominator of each sentence [N, 2]


def type_token_ratio(lines: Iterable[Words]) -> float | None:
    """Return the number of different words divided by the number of words; None without words."""
    counts = Counter(word for line in lines for word in line)
    return len(counts) / counts.total() if counts else None


def mtld(lines: Iterable[Words], *, ratio: float = MTLD_RATIO) -> float | None:
    """Return the mean length of the parts of a text whose type/token ratio stays above `ratio`.

    The text is cut where the ratio of the current part falls to `ratio`. The rest counts as the share of a part that
    its own ratio has covered on the way from 1 to `ratio`. The result is the mean over both directions of reading.

    Returns:
        The mean length in words; None if the text is too short to contain a repeated word.
    """
    words = [word for line in lines for word in line]
    parts = [_num_parts(each, ratio) for each in (words, words[::-1])]
    return None if not all(parts) else sum(len(words) / number for number in parts) / len(parts)


def _num_parts(words: Words, ratio: float) -> float:
    whole, seen, size = 0, set[str](), 0
    for word in words:
        seen.add(word)
        size += 1
        if len(seen) <= ratio * size:
            whole, seen, size = whole + 1, set(), 0
    return whole + ((1 - len(seen) / size) / (1 - ratio) if size else 0.0)


class RareWords:
    """Counts how often some words occur in lines, for those that occur 1 to `most` times.

    A word is forgotten as soon as it is too frequent, so that a large corpus needs little time and memory.

    Args:
        words: words to count.
    """

    def __init__(self, words: Collection[str], *, most: int = RARE) -> None:
        self.counts: Counter[str] = Counter()
        self._most, self._wanted = most, set(words)

    def add(self, line: Words) -> None:
        """Count the words of a line."""
        for word in self._wanted.intersection(line):
            self.counts[word] += line.count(word)
            if self.counts[word] > self._most:
                self._wanted.discard(word)
                del self.counts[word]


def rare_recall(outputs: Sequence[Words], references: Sequence[Words], rare: Collection[str]) -> Ratios:
    """Return [rare words of the reference that the output has, rare words of the reference], of different words."""
    rows = []
    for output, reference in zip(outputs, references, strict=True):
        wanted = {word for word in reference if word in rare}
        rows.append([len(wanted.intersection(output)), len(wanted)])
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def find_copies(
    sources: Sequence[Words], outputs: Sequence[Words], *, share: float = COPIED_SHARE
) -> NDArray[np.bool_]:
    """Return whether at least `share` of the different words of each output are words of its source [N].

    Only words with a letter count, without regard to case.
    """
    return np.array([_is_copy(*pair, share) for pair in zip(sources, outputs, strict=True)], dtype=bool)


def _is_copy(source: Words, output: Words, share: float) -> bool:
    words = letter_words(output)
    return bool(words) and len(words & letter_words(source)) >= share * len(words)


def letter_words(words: Words) -> set[str]:
    """Return the different words with at least one letter, casefolded."""
    return {word.casefold() for word in words if any(map(str.isalpha, word))}
