"""Tests of the rules about text that occurs several times in a row."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_tests
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


around, phrases = st.text("ab ", max_size=12), st.text("abc", min_size=1, max_size=9)


@settings_of_tests(max_examples=80)
@given(around, phrases, st.integers(2, 5), around)
def test_a_planted_repetition_is_found_as_by_trying_all(before: str, phrase: str, times: int, after: str) -> None:
    wanted = settings.RepeatedPhrases(times=3, min_length=4)
    text = " ".join(f"{before} {' '.join([phrase] * times)} {after}".split())
    assert repeats_phrase(LineText(text), True, wanted) is repeats(text.split(" "), 3, 4, " ")
    text = f"{before}{phrase * times}{after}".replace(" ", "")
    assert repeats_phrase(LineText(text), False, wanted) is repeats(list(text), 3, 4, "")


def test_repeated_phrases_of_either_side_break_the_rule() -> None:
    rule = RepeatedPhrases(settings.RepeatedPhrases(), LanguagePair((True, False)))
    assert rule.breaks(PairText("buy it now buy it now buy it now", "x"))
    assert rule.breaks(PairText("x", "今すぐ買う今すぐ買う今すぐ買う"))
    assert not rule.breaks(PairText("no no no", "ははは"))


@pytest.mark.parametrize("spaced", [True, False])
def test_phrases_longer_than_200_characters_are_not_looked_for(spaced: bool) -> None:
    wanted = settings.RepeatedPhrases()
    for length, found in ((200, True), (201, False)):
        units = [chr(0x4E00 + number) for number in range(length)]
        phrase = (
            " ".join(["".join(units[: length // 2]), "".join(units[length // 2 : -1])]) if spaced else "".join(units)
        )
        text = (" " if spaced else "").join([phrase] * 3)
        assert repeats_phrase(LineText(text), spaced, wanted) is found


def test_long_lines_are_searched_quickly() -> None:
    start = time.process_time()
    for line in ("はい" * 5000, "".join(chr(0x4E00 + n % 997) for n in range(20_000)), "a" * 20_000):
        repeats_phrase(LineText(line), False, settings.RepeatedPhrases(min_length=300))
        repeats_phrase(LineText(line), True, settings.RepeatedPhrases())
    assert time.process_time() - start < 5.0
