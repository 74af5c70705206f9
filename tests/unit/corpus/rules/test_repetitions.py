"""Tests of the rules about text that occurs several times in a row."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText
from kdmt.corpus.rules.repetitions import RepeatedCharacters, RepeatedPhrases, has_run, repeats_phrase


@given(st.text("ab", max_size=30), st.integers(1, 6))
def test_runs_are_those_of_a_regular_expression(text: str, times: int) -> None:
    assert has_run(text, times) is (re.search(rf"(.)\1{{{times - 1}}}", text) is not None)


def test_repeated_characters_are_more_than_the_maximum() -> None:
    rule = RepeatedCharacters(settings.RepeatedCharacters(max=3), LanguagePair())
    assert not rule.breaks(PairText("a...", "b"))
    assert rule.breaks(PairText("a....", "b"))
    assert rule.breaks(PairText("b", "xxxx"))


def repeats(units: list[str], times: int, min_length: int, joiner: str) -> bool:
    """Return whether a phrase occurs several times in a row, by trying all phrases."""
    for start in range(len(units)):
        for length in range(1, len(units) // times + 1):
            phrase = units[start : start + length]
            if units[start : start + length * times] == phrase * times and len(joiner.join(phrase)) >= min_length:
                return True
    return False


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=14), st.integers(2, 4), st.integers(1, 6))
def test_repeated_phrases_are_found_as_by_trying_all(words: list[str], times: int, min_length: int) -> None:
    wanted = settings.RepeatedPhrases(times=times, min_length=min_length)
    assert repeats_phrase(LineText(" ".join(words)), True, wanted) is repeats(words, times, min_length, " ")
    characters = list("".join(words))
    found = repeats_phrase(LineText("".join(words)), False, wanted)
    assert found is repeats(characters, times, min_length, "")


def test_repeated_phrases_of_either_side_break_the_rule() -> None:
    rule = RepeatedPhrases(settings.RepeatedPhrases(), LanguagePair((True, False)))
    assert rule.breaks(PairText("buy it now buy it now buy it now", "x"))
    assert rule.breaks(PairText("x", "今すぐ買う今すぐ買う今すぐ買う"))
    assert not rule.breaks(PairText("no no no", "ははは"))


@pytest.mark.parametrize("spaced", [True, False])
def test_phrases_longer_than_fifty_units_are_not_looked_for(spaced: bool) -> None:
    units = [chr(0x4E00 + number) for number in range(51)]
    wanted = settings.RepeatedPhrases()
    for length, found in ((50, True), (51, False)):
        text = (" " if spaced else "").join(units[:length] * 3)
        assert repeats_phrase(LineText(text), spaced, wanted) is found
