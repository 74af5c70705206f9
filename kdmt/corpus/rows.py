"""Rows of files with both sides of parallel text: pairs, rows that cannot be read, and rows that are left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

QUALITY = "quality"  # names in report.json
OTHER_LANGUAGES = "other_languages"


@dataclass(frozen=True)
class MalformedRow:
    """A row that cannot be read.

    Attributes:
        name: name of the file.
        line: number of the first line of the row, from 1.
        kind: kind of error.
        detail: further details for a message.
        unit: what `line` counts; "row" for files without lines.
    """

    name: str
    line: int
    kind: str
    detail: str = ""
    unit: str = "line"

    @property
    def reason(self) -> str:
        return f"{self.kind}{self.detail}"


@dataclass(frozen=True)
class LeftOut:
    """A row that is not a pair of the corpus.

    Attributes:
        reason: `QUALITY` or `OTHER_LANGUAGES`.
    """

    reason: str


@dataclass(frozen=True)
class ScoredPair:
    """A pair and its score as it is in the file, on which a corpus may have a limit."""

    source: str
    target: str
    score: object


Row = tuple[str, str] | MalformedRow | LeftOut


def limit_quality(pair: ScoredPair, least: float, name: str, line: int, unit: str = "line") -> Row:
    """Return a pair whose score is at least `least`; otherwise it is left out, or malformed without a number."""
    score = as_number(pair.score)
    if score is None:
        return MalformedRow(name, line, "a score that is not a number", f": {str(pair.score)[:40]!r}", unit)
    return (pair.source, pair.target) if score >= least else LeftOut(QUALITY)


def as_number(value: object) -> float | None:
    """Return a number or the number that a text contains; None if there is none or it is NaN."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def on_one_line(text: str) -> str:
    """Return a text with a space for each line break, since only `\\n` and `\\r` end lines in the files of kdmt."""
    if "\n" in text or "\r" in text:
        text = text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
    return text
