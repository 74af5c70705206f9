"""Tests of limits on scores in files, and of text on one line."""

from __future__ import annotations

import pytest

from kdmt.corpus.rows import QUALITY, LeftOut, MalformedRow, ScoredPair, as_number, limit_quality, on_one_line


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((0.5, 0.5), (3, 3.0), ("0.5", 0.5), (" 1e-3 ", 0.001), ("-1", -1.0), ("inf", float("inf"))),
        *((None, None), ("", None), ("nan", None), (float("nan"), None), (True, None), ([1], None), ("0,5", None)),
        (10**400, None),
    ],
)
def test_numbers_are_read_from_numbers_and_text(value: object, number: float | None) -> None:
    assert as_number(value) == number


def test_a_pair_below_the_limit_is_left_out() -> None:
    def limited(score: object) -> object:
        return limit_quality(ScoredPair("a", "b", score), 0.5, "f", 7, "row")

    assert limited(0.5) == limited("0.51") == ("a", "b")
    assert limited(0.49) == limited("-1") == LeftOut(QUALITY)
    assert limited("x") == MalformedRow("f", 7, "a score that is not a number", ": 'x'", "row")


def test_line_breaks_become_spaces() -> None:
    assert on_one_line("a\nb\r\nc\rd\u2028e\x85f") == "a b c d\u2028e\x85f"
