"""Tests of the choice of the tokens that stay in a vocabulary, against a brute-force choice and by properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.vocabulary_choice import TokenLimits, choose_tokens, extreme_pieces
from kdmt.errors import UserError


def alone(_: int) -> tuple[int, ...]:
    return ()


def counts(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_tokens_of_the_text_and_required_ones_stay() -> None:
    assert choose_tokens(counts(0, 3, 0, 1, 0), [4], TokenLimits(), alone).tolist() == [1, 3, 4]


def test_rare_tokens_do_not_stay() -> None:
    assert choose_tokens(counts(5, 2, 1), [], TokenLimits(min_count=2), alone).tolist() == [0, 1]


def test_the_most_frequent_tokens_stay_of_equal_ones_the_first() -> None:
    assert choose_tokens(counts(1, 4, 2, 2, 2), [0], TokenLimits(size=3), alone).tolist() == [0, 1, 2]


def test_parts_stay_and_count() -> None:
    parts = {3: (1, 2)}
    chosen = choose_tokens(counts(5, 0, 0, 4, 3), [], TokenLimits(size=4), lambda token: parts.get(token, ()))
    assert chosen.tolist() == [0, 1, 2, 3]
    assert choose_tokens(counts(5, 0, 0, 4, 3), [], TokenLimits(size=3), lambda t: parts.get(t, ())).tolist() == [0]
    assert choose_tokens(counts(5, 0, 0, 0), [3], TokenLimits(), lambda t: parts.get(t, ())).tolist() == [0, 1, 2, 3]


def test_no_room_for_required_tokens_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--vocab-size 1: 2 tokens stay in any case"):
        choose_tokens(counts(1, 1, 1), [0, 2], TokenLimits(size=1), alone)


def test_limit_above_every_count_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--min-count 9: no token of the text stays: .* occurs 8 times"):
        choose_tokens(counts(8, 1), [0], TokenLimits(min_count=9), alone)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 12), st.sets(st.integers(0, 11), max_size=3)
)
def test_no_token_that_stays_is_rarer_than_one_that_does_not(values: list[int], size: int, wanted: set[int]) -> None:
    required = {token for token in wanted if token < len(values)}
    if not any(values) or size < len(required):
        return
    chosen = set(choose_tokens(counts(*values), required, TokenLimits(size=size), alone).tolist())
    occurring = sum(1 for value in values if value)
    assert required <= chosen
    assert len(chosen) == min(size, len(required | {t for t, value in enumerate(values) if value}))
    rest = [values[token] for token in range(len(values)) if token not in chosen]
    assert all(values[token] >= max(rest, default=0) for token in chosen - required)
    assert len(chosen) <= occurring + len(required)


def test_pieces_with_the_lowest_and_the_highest_score_stay() -> None:
    assert extreme_pieces({"a": -3.0, "b": -1.0, "c": -7.5, "d": -2.0}) == {"b", "c"}
    assert extreme_pieces({}) == set()
