"""Levenshtein distances of batches, compared with the recursive definition."""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.edit_distance import edit_distances

WORDS = st.lists(st.integers(0, 3), max_size=7)


@cache
def by_definition(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    if not first or not second:
        return len(first) + len(second)
    return min(
        by_definition(first[1:], second) + 1,
        by_definition(first, second[1:]) + 1,
        by_definition(first[1:], second[1:]) + (first[0] != second[0]),
    )


@given(st.lists(st.tuples(WORDS, WORDS), max_size=6))
def test_distances_are_those_of_the_definition(pairs: list[tuple[list[int], list[int]]]) -> None:
    found = edit_distances([first for first, _ in pairs], [second for _, second in pairs])
    assert found.tolist() == [by_definition(tuple(first), tuple(second)) for first, second in pairs]


def test_sequences_of_different_lengths_do_not_see_the_padding_of_others() -> None:
    assert edit_distances([[1], [1, 2, 3], []], [[1, 2, 3, 4], [3], []]).tolist() == [3, 2, 0]
