"""Validation and test sentences, to be kept out of the training data."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdmt.corpus.combining import limit_marks

_ASCII_LOWER = bytes(range(128)).lower() + bytes(range(128, 256))
_ASCII_DROPPED = bytes(code for code in range(128) if not chr(code).isalnum())
_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]")


def comparison_key(line: str) -> bytes:
    """What two lines have in common when they count as the same sentence.

    NFKC and case folding (Unicode's toNFKC_Casefold, default-ignorable characters aside), then only letters, digits and
    combining marks are kept: punctuation, symbols and whitespace make no difference. A line that has none of them has
    the empty key.
    """
    if not line.isascii():
        line = limit_marks(line)
        line = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", line).casefold())
    # ASCII is done on bytes, many times faster; most lines have nothing left to remove after that.
    key = line.encode().translate(_ASCII_LOWER, _ASCII_DROPPED)
    if key.isalnum() or (rest := key.decode()).isalnum():
        return key
    return _NO_LETTER_OR_DIGIT.sub(_keep_mark, rest).encode()


def _keep_mark(match: re.Match[str]) -> str:
    """`\\W` counts combining marks, which are the vowels of many scripts, as no part of a word."""
    return match[0] if unicodedata.category(match[0]).startswith("M") else ""


@dataclass(frozen=True)
class Forbidden:
    """The sentences of the validation and test sets: comparison key -> the held-out sides that hold it.

    A training pair is contaminated when its source has the key of a held-out source, or its target that of a held-out
    target. There is no lower limit on length: a one-word sentence of a test set forbids every training pair that
    says just this on that side. Only sentences with the empty key (nothing but punctuation) forbid nothing.

    Keys are kept whole, not hashed: held-out sets are small, and no training pair is lost to a collision.
    """

    sides: tuple[str, ...]  # "valid.source", "valid.target", "test_2016.source", ...
    source: Mapping[bytes, tuple[str, ...]]
    target: Mapping[bytes, tuple[str, ...]]

    def matches(self, source: str, target: str) -> tuple[str, ...]:
        """The held-out sides that this training pair repeats, as "test_2016.source"; empty if it is clean."""
        return self.source.get(comparison_key(source), ()) + self.target.get(comparison_key(target), ())


def collect_forbidden(held_out: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> Forbidden:
    """`Forbidden` from (name of the set, its pairs of lines)."""
    sides: list[str] = []
    source: dict[bytes, tuple[str, ...]] = {}
    target: dict[bytes, tuple[str, ...]] = {}
    for name, pairs in held_out:
        source_side, target_side = f"{name}.source", f"{name}.target"
        sides += [source_side, target_side]
        for source_line, target_line in pairs:
            _add(source, source_line, source_side)
            _add(target, target_line, target_side)
    return Forbidden(tuple(sides), source, target)


def _add(known: dict[bytes, tuple[str, ...]], line: str, side: str) -> None:
    key = comparison_key(line)
    sides = known.get(key, ())
    if key and side not in sides:
        known[key] = (*sides, side)
