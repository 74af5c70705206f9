"""Tests of the limit on consecutive combining marks."""

import sys
import unicodedata
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus import combining
from kdmt.corpus.combining import MAX_MARKS, limit_marks
from kdmt.corpus.decontaminate import comparison_key
from kdmt.corpus.rules.tidying import normalize_unicode

characters = st.one_of(st.sampled_from("\u0301\u0323\u0345\u3099\u05b0\u302e"), st.characters())


def plainly_limited(line: str) -> str:
    kept, run = [], 0
    for character in line:
        run = run + 1 if unicodedata.combining(character) else 0
        if run <= MAX_MARKS:
            kept.append(character)
    return "".join(kept)


@given(st.lists(st.tuples(characters, st.integers(1, 80)), max_size=6))
def test_marks_beyond_the_limit_are_removed(parts: list[tuple[str, int]]) -> None:
    line = "".join(character * count for character, count in parts)
    with mock.patch.object(combining, "_SHORT", 0):
        assert limit_marks(line) == plainly_limited(line)


def test_runs_of_every_combining_mark_are_limited() -> None:
    """Check that runs are found, which requires that no combining mark is a letter or a space."""
    marks = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code))]
    assert len(marks) > 800
    with mock.patch.object(combining, "_SHORT", 0):
        for mark in marks:
            assert limit_marks(mark * (MAX_MARKS + 9)) == mark * MAX_MARKS


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0323\u0301\u0345"])
def test_a_long_line_of_marks_is_normalised_quickly(form: str, marks: str) -> None:
    """Normalise a line that takes 20 seconds without the limit."""
    line = "a" + marks * 100_000
    assert len(normalize_unicode(line, form)) <= MAX_MARKS + 1  # type: ignore[arg-type]
    assert len(comparison_key(line).decode()) <= MAX_MARKS + 1
