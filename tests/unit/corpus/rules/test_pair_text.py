"""Tests of the values of a pair that rules share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.rules.pair_text import LineText, PairText


def test_values_of_a_line_are_computed_once() -> None:
    source, target = PairText("a b", "c \u00e9").lines
    assert source.words == ["a", "b"]
    assert source.words is source.words
    assert target.characters == {"c", " ", "\u00e9"}
    assert target.characters is target.characters


def test_words_and_spaces_include_the_ethiopic_wordspace() -> None:
    line = LineText("\u12a0\u1361\u1260 \u1208")
    assert line.words == ["\u12a0", "\u1260", "\u1208"]
    assert line.num_spaces == 2


@given(st.text(st.sampled_from("aZ\u00e9 .,-1\u0661\u0434\u4e2d\u201c\ufffd\ue000#{<@"), max_size=20))
def test_fast_tests_agree_with_the_characters(text: str) -> None:
    line = LineText(text)
    assert line.ascii_letters == sum(character.isascii() and character.isalpha() for character in text)
    plain = all(character in "aZ\u00e9 .,-\u0434" for character in text)
    assert (line.signs == b"") is plain


def test_equal_lines_share_their_values() -> None:
    source, target = PairText("a b", "".join(["a", " b"])).lines
    assert source is target
    first, second = PairText("a b", "a c").lines
    assert first is not second
