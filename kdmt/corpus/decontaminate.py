"""Removal of validation and test sentences from the training data."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kdmt.corpus.combining import limit_marks
from kdmt.corpus.ngram_overlap import Forms, NgramOverlaps, only_form

_ASCII_LOWER = bytes(range(128)).lower() + bytes(range(128, 256))
_ASCII_DROPPED = bytes(code for code in range(128) if not chr(code).isalnum())
_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]")


def comparison_key(line: str) -> bytes:
    """Return a key that is equal for two lines that count as the same sentence.

    The line is normalised with NFKC and case folding (Unicode's toNFKC_Casefold, except that default-ignorable
    characters are not removed). Then only letters, digits and combining marks are kept, so that punctuation, symbols
    and whitespace have no effect. The key of a line without letters, digits and combining marks is empty.
    """
    if not line.isascii():
        line = limit_marks(line)
        line = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", line).casefold())
    # ASCII is processed as bytes, which is many times faster; in most lines, nothing else needs to be removed.
    key = line.encode().translate(_ASCII_LOWER, _ASCII_DROPPED)
    if key.isalnum() or (rest := key.decode()).isalnum():
        return key
    return _NO_LETTER_OR_DIGIT.sub(_keep_mark, rest).encode()


def _keep_mark(match: re.Match[str]) -> str:
    """Return a match of `\\W` if it is a combining mark, which many scripts use as vowel, else an empty string."""
    return match[0] if unicodedata.category(match[0]).startswith("M") else ""


@dataclass(frozen=True)
class Forbidden:
    """Sentences of the validation and test sets: mappings from a comparison key to the held-out sides that contain it.

    A training pair is contaminated if its source has the key of a held-out source, or its target the key of a held-out
    target. There is no minimum length: a one-word sentence of a test set excludes every training pair that consists of
    this word on that side. Only sentences with the empty key (nothing but punctuation) exclude nothing.

    Keys are stored in full, without hashing: held-out sets are small, and no training pair is lost to a collision.
    """

    sides: tuple[str, ...]  # "valid.source", "valid.target", "test_2016.source", ...
    source: Mapping[bytes, tuple[str, ...]]
    target: Mapping[bytes, tuple[str, ...]]
    overlaps: NgramOverlaps | None = None  # n-grams of the sentences, if lines that share some are excluded too

    def of_copies(self, side: int = 0) -> Forbidden:
        """Return the `Forbidden` for pairs of a line with itself: n-grams of one side alone.

        Args:
            side: side whose language the lines have: 0 for the source, 1 for the target.
        """
        if self.overlaps is None:
            return self
        own = self.overlaps.target if side else self.overlaps.source
        return replace(self, overlaps=None if own is None else NgramOverlaps(own, None))

    def matches(self, source_key: bytes, target_key: bytes) -> tuple[str, ...]:
        """Return the held-out sides that contain a side of a pair, such as "test_2016.source"; empty if clean.

        Args:
            source_key, target_key: comparison keys of both sides.
        """
        return self.source.get(source_key, ()) + self.target.get(target_key, ())


def collect_forbidden(
    held_out: Iterable[tuple[str, Iterable[tuple[str, str]]]], forms: tuple[Forms, Forms] = (only_form, only_form)
) -> Forbidden:
    """Return the `Forbidden` for held-out sets, each given as its name and its pairs of lines.

    Args:
        forms: functions that return the forms of a source and of a target that are excluded.
    """
    sides: list[str] = []
    source: dict[bytes, tuple[str, ...]] = {}
    target: dict[bytes, tuple[str, ...]] = {}
    for name, pairs in held_out:
        source_side, target_side = f"{name}.source", f"{name}.target"
        sides += [source_side, target_side]
        for source_line, target_line in pairs:
            for form in forms[0](source_line):
                _add(source, form, source_side)
            for form in forms[1](target_line):
                _add(target, form, target_side)
    return Forbidden(tuple(sides), source, target)


def _add(known: dict[bytes, tuple[str, ...]], line: str, side: str) -> None:
    key = comparison_key(line)
    sides = known.get(key, ())
    if key and side not in sides:
        known[key] = (*sides, side)
