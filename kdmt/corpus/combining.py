"""Limit on combining marks in a row: normalisation sorts them, in time quadratic in their number."""

from __future__ import annotations

import itertools
import re
import unicodedata

MAX_MARKS = 30  # in a row, as in Unicode's stream-safe text format (Standard Annex #15, section 13)
_SHORT = 1000  # length in characters up to which a line is fast to normalise with any content
_RUN = re.compile(rf"[^\w\s]{{{MAX_MARKS + 1},}}")  # no combining mark is a letter or a digit


def limit_marks(line: str) -> str:
    """Remove the combining marks after the first `MAX_MARKS` in a row; short lines are unchanged."""
    if len(line) <= _SHORT or line.isascii():
        return line
    return _RUN.sub(_limit_run, line)


def _limit_run(match: re.Match[str]) -> str:
    runs = itertools.groupby(match[0], key=lambda character: unicodedata.combining(character) != 0)
    return "".join("".join(itertools.islice(run, MAX_MARKS if are_marks else None)) for are_marks, run in runs)
