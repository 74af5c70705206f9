"""Which hypotheses fail, against a search of the test's own for repetition loops."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import Failures
from kdmt.distill.failures import MAX_NGRAM, find_failure, has_loop
from kdmt.types import UNK

SETTINGS = Failures(repetition_times=3)


def loop_by_search(tokens: Sequence[int], times: int) -> bool:
    """Every n-gram at every place, put down `times` times and compared."""
    tokens = list(tokens)
    return any(
        tokens[start : start + n * times] == tokens[start : start + n] * times
        for n in range(1, MAX_NGRAM + 1)
        for start in range(len(tokens) - n * times + 1)
    )


@given(st.lists(st.integers(4, 6), max_size=24), st.integers(2, 4))
def test_loops_are_those_that_a_search_finds(tokens: list[int], times: int) -> None:
    assert has_loop(tokens, times=times) == loop_by_search(tokens, times)


@given(
    st.lists(st.integers(4, 9), max_size=6),
    st.lists(st.integers(4, 9), min_size=1, max_size=6),
    st.integers(2, 5),
    st.lists(st.integers(4, 9), max_size=6),
)
def test_a_loop_put_into_a_sentence(before: list[int], ngram: list[int], times: int, after: list[int]) -> None:
    tokens = before + ngram * times + after
    assert has_loop(tokens, times=times) == loop_by_search(tokens, times)
    if len(ngram) <= MAX_NGRAM:
        assert has_loop(tokens, times=times)


@pytest.mark.parametrize(
    ("tokens", "times", "expected"),
    [
        ([], 2, False),
        ([5], 2, False),
        ([5, 5], 2, True),
        ([5, 5], 3, False),
        ([5, 6, 5, 6, 5], 3, False),
        ([5, 6, 5, 6, 5, 6], 3, True),
        ([6, 5, 6, 5, 6, 5], 3, True),
        ([5, 6, 7, 8, 9] * 4, 2, False),  # five tokens are no n-gram of up to four
        ([5, 6, 7, 8] * 2, 2, True),
    ],
)
def test_loops_by_hand(tokens: list[int], times: int, expected: bool) -> None:
    assert has_loop(tokens, times=times) is expected


@pytest.mark.parametrize(
    ("tokens", "hit_limit", "expected"),
    [
        ((), False, "empty"),
        ((), True, "empty"),
        ((4, 5), False, None),
        ((4, 5), True, "too_long"),
        ((4, 4, 4), True, "too_long"),
        ((4, 4, 4), False, "repetition"),
        ((4, 4), False, None),
        ((UNK, UNK, UNK), False, "repetition"),
        ((4, UNK), False, "unk"),
    ],
)
def test_the_first_failure_that_applies_is_the_one_counted(
    tokens: tuple[int, ...], hit_limit: bool, expected: str | None
) -> None:
    assert find_failure(tokens, hit_limit=hit_limit, settings=SETTINGS) == expected
