"""Kinds of sentences by which diagnostics are broken down: source length, case, digits and URLs.

The kinds are found in the raw source, before it is tokenised or lowercased. Case is that of the letters; scripts
without case are of no kind of case.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

# number of source words: the last kind has no upper bound
LENGTHS: tuple[tuple[int, int | None], ...] = ((1, 10), (11, 20), (21, 40), (41, None))

_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"']+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_NUMBER = re.compile("\\d+(?:[.,\u00a0\u202f]\\d+)*")  # with no-break spaces between thousands
_AT_END = ".,;:!?)]}»”’…"
_LONG_WORD = 4  # characters: shorter words may be lowercase in a title


def find_urls(text: str) -> Counter[str]:
    """Return the URLs and e-mail addresses of a text, without punctuation at their end."""
    return Counter(found.rstrip(_AT_END) for found in _URL.findall(text))


def find_numbers(text: str) -> Counter[str]:
    """Return the numbers of a text outside URLs, as digits without separators: 1,000 and 1.000 are both 1000."""
    return Counter("".join(filter(str.isdigit, found)) for found in _NUMBER.findall(_URL.sub(" ", text)))


def _is_upper(text: str) -> bool:
    return text.isupper() and sum(map(str.isalpha, text)) > 1


def _is_title(text: str) -> bool:
    words = [word for word in text.split() if any(map(str.isalpha, word))]
    long = [word for word in words if len(word) >= _LONG_WORD]
    return len(words) > 2 and len(long) > 1 and not _is_upper(text) and all(_has_initial(word) for word in long)


def _has_initial(word: str) -> bool:
    return next(filter(str.isalpha, word)).isupper() if any(map(str.isalpha, word)) else True


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, _URL.sub(" ", text)))


_KINDS: dict[str, Callable[[str], bool]] = {
    "upper case": _is_upper,
    "title case": _is_title,
    "lower case": str.islower,
    "with digits": _has_digit,
    "with URLs": lambda text: bool(_URL.search(text)),
}


def split_kinds(sources: Sequence[str], num_words: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
    """Return the sentences of each kind that occurs, as masks [N]. A sentence may be of several kinds.

    Args:
        sources: raw sources [N].
        num_words: number of words of each source [N].
    """
    masks = {
        f"{low} words or more" if high is None else f"{low} to {high} words": (num_words >= low)
        & (num_words <= (np.inf if high is None else high))
        for low, high in LENGTHS
    }
    masks |= {kind: np.array([is_kind(text) for text in sources], dtype=bool) for kind, is_kind in _KINDS.items()}
    return {kind: mask for kind, mask in masks.items() if mask.any()}
