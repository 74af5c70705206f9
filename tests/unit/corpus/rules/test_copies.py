"""Tests of the rules for pairs whose sides are the same text, or almost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config.rules import NearCopy as Settings
from kdmt.corpus.rules.copies import Copy, NearCopy
from kdmt.corpus.rules.pair_text import LanguagePair, PairText


def edit_distance(first: str, second: str) -> int:
    """Return the Levenshtein distance by the textbook recurrence."""
    row = list(range(len(second) + 1))
    for number, one in enumerate(first, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(second, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (one != other))
    return row[-1]


def test_only_equal_sides_are_copies() -> None:
    assert Copy().breaks(PairText("a b", "a b"))
    assert not Copy().breaks(PairText("a b", "a B"))


@given(
    st.text("abc ", min_size=1, max_size=12), st.text("abc ", min_size=1, max_size=12), st.sampled_from([0.5, 0.8, 1])
)
def test_similarity_is_one_minus_the_distance_per_character(source: str, target: str, limit: float) -> None:
    similarity = 1 - edit_distance(source, target) / max(len(source), len(target))
    rule = NearCopy(Settings(max=limit), LanguagePair())
    assert rule.breaks(PairText(source, target)) is (similarity >= limit - 1e-12)


@pytest.mark.parametrize(("limit", "is_broken"), [(0.9, True), (0.91, False)])
def test_a_pair_with_the_similarity_of_the_limit_is_dropped(limit: float, is_broken: bool) -> None:
    rule = NearCopy(Settings(max=limit), LanguagePair())
    assert rule.breaks(PairText("abcdefghij", "abcdefghiX")) is is_broken
