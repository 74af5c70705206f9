"""Tests of the rule that the numbers of both sides agree."""

from __future__ import annotations

import pytest

from kdmt.config.rules import Numbers as Settings
from kdmt.corpus.rules.numbers import Numbers, find_numbers
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        ("two dogs", set()),
        ("12 dogs and 3 cats", {"12", "3"}),
        ("1,000 or 1.000 or 1\u00a0000 or 1'000", {"1000"}),
        ("3.14 and 3,14", {"314"}),
        ("007", {"7"}),
        ("0 and 00", {"0"}),
        ("the 5th, at 10:30.", {"5", "1030"}),
        (
            "\u0661\u0662 \u0969 \uff14 \u0ed1\u0ed5",
            {"12", "3", "4", "15"},
        ),  # Arabic, Devanagari, full-width, Lao digits
        ("12\u066b5", {"125"}),
        ("x\u00b2", set()),  # a superscript is not a decimal digit
    ],
)
def test_numbers_of_a_line(line: str, numbers: set[str]) -> None:
    assert find_numbers(LineText(line)) == numbers


@pytest.mark.parametrize(
    ("source", "target", "limit", "is_broken"),
    [
        ("in 1990", "im Jahr 1990", 1.0, False),
        ("in 1990", "im Jahr 1991", 1.0, True),  # 1/3
        ("in 1990", "damals", 1.0, True),  # 1/2
        ("1 2", "1 3", 1.0, True),  # 2/3
        ("1 2", "1 3", 0.6, False),
        ("1 2 3", "1 2 three", 1.0, False),  # 3/2
        ("1 000 000 people", "1,000,000 Menschen", 1.0, False),
        ("in 5 1000 people", "5 und 1000", 1.0, False),
        ("at 10:30", "um 10 h 30", 1.0, False),  # their parts agree
        ("at 10:30", "um 10 h 31", 1.0, True),  # 2/3
        ("two", "deux", 1.0, False),
    ],
)
def test_numbers_agree_if_the_common_ones_are_enough(source: str, target: str, limit: float, is_broken: bool) -> None:
    rule = Numbers(Settings(min=limit), LanguagePair())
    assert rule.breaks(PairText(source, target)) is is_broken
    assert rule.breaks(PairText(target, source)) is is_broken
