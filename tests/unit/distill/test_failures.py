"""Which hypotheses fail, against a search of the test's own for repetition loops; many at once as each by itself."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest
from failure_oracle import find_failure, has_loop
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import Failures
from kdmt.distill.failures import (
    FAILURES,
    MAX_NGRAM,
    find_text_failures,
    find_token_failures,
)
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


# ---------------------------------------------------------------------------------------------------- many at once

hypotheses = st.lists(st.tuples(st.lists(st.integers(UNK, 6), max_size=14), st.booleans()), max_size=12)


def name(code: int) -> str | None:
    return FAILURES[code - 1] if code else None


@given(hypotheses, st.integers(2, 4))
def test_many_hypotheses_fail_as_each_by_itself(nbest: list[tuple[list[int], bool]], times: int) -> None:
    """So few different tokens that loops are common, in sentences and across their ends."""
    codes = find_token_failures(
        np.array([token for tokens, _ in nbest for token in tokens], dtype=np.int32),
        np.array([len(tokens) for tokens, _ in nbest], dtype=np.int32),
        np.array([hit_limit for _, hit_limit in nbest], dtype=bool),
        repetition_times=times,
    )
    settings = Failures(repetition_times=times)
    expected = [find_failure(tokens, hit_limit=hit_limit, settings=settings) for tokens, hit_limit in nbest]
    assert codes.dtype == np.uint8
    assert list(map(name, codes.tolist())) == expected


@given(st.lists(st.lists(st.integers(4, 5), max_size=5), min_size=1, max_size=10))
def test_no_loop_goes_from_one_hypothesis_into_the_next(nbest: list[list[int]]) -> None:
    sizes = np.array(list(map(len, nbest)))
    flat = np.array([token for tokens in nbest for token in tokens], dtype=np.int64)
    codes = find_token_failures(flat, sizes, np.zeros(len(nbest), dtype=bool), repetition_times=6)
    assert set(map(name, codes.tolist())) <= {None, "empty"}  # five tokens repeat nothing six times


def test_zero_times_is_no_repetition() -> None:
    flat, sizes = np.array([7] * 50 + [4, 5]), np.array([50, 2])
    codes = find_token_failures(flat, sizes, np.zeros(2, dtype=bool), repetition_times=0)
    assert list(map(name, codes.tolist())) == [None, None]


@pytest.mark.parametrize(("num_tokens", "num_flags"), [(2, 2), (3, 1), (4, 2)])
def test_arrays_that_do_not_belong_together(num_tokens: int, num_flags: int) -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        find_token_failures(np.zeros(num_tokens, int), np.array([1, 2]), np.zeros(num_flags, bool), repetition_times=2)


# ------------------------------------------------------------------------------------------------------- of the words

LATIN = Failures(scripts=["Latin"], max_ratio=2.0)


def text_failure(words: str, source: str, settings: Failures = LATIN, typical_ratio: float = 1.0) -> str | None:
    """As the documentation has it, by the names of the characters: enough for the scripts of these tests."""
    expected, found = len(source) * typical_ratio**0.5 + 10, len(words) / typical_ratio**0.5 + 10
    letters = [character for character in words if character.isalpha()]
    names = [unicodedata.name(letter, "") for letter in letters]
    allowed = tuple(script.upper() for script in settings.scripts)
    foreign = sum(not each.startswith(allowed) and each not in NO_SCRIPT for each in names)
    if not words.split():
        return "empty"
    one_is_empty = bool(words) != bool(source)
    if settings.max_ratio and (one_is_empty or max(expected / found, found / expected) > settings.max_ratio):
        return "ratio"
    if letters and " ".join(words.split()).casefold() == " ".join(source.split()).casefold():
        return "copied"
    if allowed and foreign > settings.max_foreign * len(letters):
        return "script"
    return None


NO_SCRIPT = {"MICRO SIGN", "KATAKANA-HIRAGANA PROLONGED SOUND MARK"}
lines = st.text(st.sampled_from("aBß1 .\u00a0\tжЖひカーµ\U0001f600"), max_size=20)


@given(
    st.lists(st.tuples(lines, lines), max_size=6),
    st.sampled_from([[], ["Latin"], ["Cyrillic"], ["Hiragana", "Katakana"]]),
    st.sampled_from([0.0, 1.5, 3.0]),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from([0.2, 1.0, 3.0]),
)
def test_words_fail_as_documented(
    pairs: list[tuple[str, str]], scripts: list[str], max_ratio: float, max_foreign: float, typical_ratio: float
) -> None:
    settings = Failures(scripts=scripts, max_ratio=max_ratio, max_foreign=max_foreign)
    hypotheses, sources = [words for words, _ in pairs], [source for _, source in pairs]
    codes = find_text_failures(hypotheses, sources, settings, typical_ratio=typical_ratio)
    assert codes.dtype == np.uint8
    expected = [text_failure(words, source, settings, typical_ratio) for words, source in pairs]
    assert list(map(name, codes.tolist())) == expected


@pytest.mark.parametrize(
    ("words", "source", "expected"),
    [
        ("", "a b", "empty"),
        (" \u00a0 ", "a b", "empty"),
        (30 * "a", 10 * "x", None),  # 40 against 20, with 10 characters more on both sides
        (31 * "a", 10 * "x", "ratio"),
        (10 * "a", 31 * "x", "ratio"),
        ("Yes.", "x" * 18, None),
        ("a", "", "ratio"),  # there is nothing that it could be the translation of
        ("Die  Straße", "die STRASSE", "copied"),
        ("die Straßen", "die Straße", None),
        ("12 : 30", "12 : 30", None),  # no letter
        ("привет", "hello", "script"),
        ("привет hello", "hello there", "script"),  # six letters to five
        ("привет hellos", "hello there", None),  # half of them
        ("120 µ", "120 microns", None),  # the micro sign is of no script
        ("😀 !", "hello there", None),
        ("привет", "привет", "copied"),  # before `script`
        ("привет", 23 * "a", "ratio"),  # before both
    ],
)
def test_failures_of_words_by_hand(words: str, source: str, expected: str | None) -> None:
    (code,) = find_text_failures([words], [source], LATIN, typical_ratio=1.0).tolist()
    assert name(code) == expected
    assert text_failure(words, source) == expected


def test_a_lone_surrogate_is_no_letter() -> None:
    (code,) = find_text_failures(["\ud800 да"], ["a b"], LATIN, typical_ratio=1.0).tolist()
    assert name(code) == "script"


def test_as_many_sources_as_hypotheses() -> None:
    with pytest.raises(ValueError, match="2 hypotheses of 1 sources"):
        find_text_failures(["a", "b"], ["a"], LATIN, typical_ratio=1.0)


def test_ratio_of_a_language_with_short_lines() -> None:
    """A perfect Japanese translation has a third of the characters, and a third of that is no translation."""
    sources = ["It is a fine day today, so let us go for a walk in the park together."] * 3
    hypotheses = ["今日はいい天気なので、一緒に公園を散歩しましょう。", "はい", "今日は" * 60]
    codes = find_text_failures(hypotheses, sources, Failures(), typical_ratio=0.36)
    assert list(map(name, codes.tolist())) == [None, "ratio", "ratio"]
    codes = find_text_failures(hypotheses, sources, Failures(max_ratio=0.0), typical_ratio=0.36)
    assert list(map(name, codes.tolist())) == [None, None, None]


def test_every_failure_has_a_setting_in_its_order() -> None:
    assert tuple(Failures.model_fields)[: len(FAILURES)] == FAILURES
