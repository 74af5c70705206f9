"""Replicated targets and beginnings of sources."""

from __future__ import annotations

import pytest

from kdmt.score.replication import find_replicated, source_prefix


def test_equal_outputs_are_replicated_and_empty_ones_are_not() -> None:
    assert find_replicated([["a", "b"], ["a"], []], [["a", "b"], ["a", "b"], []]).tolist() == [True, False, False]
    assert find_replicated(["a b", "b"], ["a b", "a"]).tolist() == [True, False]


@pytest.mark.parametrize("size", range(40))
def test_a_beginning_is_the_longest_with_at_most_three_quarters(size: int) -> None:
    words = [f"w{i}" for i in range(size)]
    kept = source_prefix(" ".join(words)).split()
    assert kept == words[: len(kept)]
    assert 4 * len(kept) <= 3 * size
    assert 4 * (len(kept) + 1) > 3 * size


def test_characters_are_counted_without_spaces() -> None:
    assert source_prefix("abcdefgh", spaced=False) == "abcdef"
    assert source_prefix("abcdefgh") == ""
