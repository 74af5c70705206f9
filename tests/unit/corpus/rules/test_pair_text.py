"""Tests of the values of a pair that rules share."""

from __future__ import annotations

from kdmt.corpus.rules.pair_text import PairText


def test_values_of_a_line_are_computed_once() -> None:
    source, target = PairText("a b", "c \u00e9").lines
    assert source.words == ["a", "b"]
    assert source.words is source.words
    assert target.characters == {"c", " ", "\u00e9"}
    assert target.characters is target.characters
    assert (source.is_ascii, target.is_ascii) == (True, False)


def test_equal_lines_share_their_values() -> None:
    source, target = PairText("a b", "".join(["a", " b"])).lines
    assert source is target
    first, second = PairText("a b", "a c").lines
    assert first is not second
