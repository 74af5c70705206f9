"""Tests of failure checks: repetition loops against a plain search, and batches against single hypotheses."""

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
    """Return whether any n-gram at any position is followed by itself, `times` times in a row."""
    tokens = list(tokens)
    return any(
        tokens[start : start + n * times] == tokens[start : start + n] * times
        for n in range(1, MAX_NGRAM + 1)
        for start in range(len(tokens) - n * times + 1)
    )


@given(st.lists(st.integers(4, 6), max_size=24), st.integers(2, 4))
def test_has_loop_equals_plain_search(tokens: list[int], times: int) -> None:
    assert has_loop(tokens, times=times) == loop_by_search(tokens, times)


@given(
    st.lists(st.integers(4, 9), max_size=6),
    st.lists(st.integers(4, 9), min_size=1, max_size=6),
    st.integers(2, 5),
    st.lists(st.integers(4, 9), max_size=6),
)
def test_inserted_loop_is_found(before: list[int], ngram: list[int], times: int, after: list[int]) -> None:
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
        ([5, 6, 7, 8, 9] * 4, 2, False),  # n-grams have at most four tokens
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
def test_first_applicable_failure_is_returned(tokens: tuple[int, ...], hit_limit: bool, expected: str | None) -> None:
    assert find_failure(tokens, hit_limit=hit_limit, settings=SETTINGS) == expected


# --------------------------------------------------------------------------------------------------------- batches

hypotheses = st.lists(st.tuples(st.lists(st.integers(UNK, 6), max_size=14), st.booleans()), max_size=12)


def name(code: int) -> str | None:
    return FAILURES[code - 1] if code else None


@given(hypotheses, st.integers(2, 4))
def test_batch_equals_single_hypotheses(nbest: list[tuple[list[int], bool]], times: int) -> None:
    """There are only four different tokens, so that loops are common, within and across hypotheses."""
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
def test_loops_do_not_cross_hypotheses(nbest: list[list[int]]) -> None:
    sizes = np.array(list(map(len, nbest)))
    flat = np.array([token for tokens in nbest for token in tokens], dtype=np.int64)
    codes = find_token_failures(flat, sizes, np.zeros(len(nbest), dtype=bool), repetition_times=6)
    assert set(map(name, codes.tolist())) <= {None, "empty"}  # a hypothesis of five tokens cannot have six repetitions


def test_zero_disables_the_repetition_check() -> None:
    flat, sizes = np.array([7] * 50 + [4, 5]), np.array([50, 2])
    codes = find_token_failures(flat, sizes, np.zeros(2, dtype=bool), repetition_times=0)
    assert list(map(name, codes.tolist())) == [None, None]


@pytest.mark.parametrize(("num_tokens", "num_flags"), [(2, 2), (3, 1), (4, 2)])
def test_arrays_of_different_length_are_refused(num_tokens: int, num_flags: int) -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        find_token_failures(np.zeros(num_tokens, int), np.array([1, 2]), np.zeros(num_flags, bool), repetition_times=2)


# -------------------------------------------------------------------------------------------------- failures of words

LATIN = Failures(scripts=["Latin"], max_ratio=2.0)


def text_failure(words: str, source: str, settings: Failures = LATIN, typical_ratio: float = 1.0) -> str | None:
    """Return the failure as documented; scripts are derived from Unicode names, which suffices for these tests."""
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


@given(st.lists(st.tuples(lines, lines, st.sampled_from(["de", "ru", "ja"])), max_size=8))
def test_scripts_by_language_are_checked_for_hypotheses_in_it(pairs: list[tuple[str, str, str]]) -> None:
    scripts = {"ru": ["Cyrillic"], "ja": ["Hiragana", "Katakana"]}
    hypotheses, sources, languages = ([each[column] for each in pairs] for column in range(3))
    codes = find_text_failures(hypotheses, sources, Failures(scripts=scripts), typical_ratio=1.0, languages=languages)
    expected = [text_failure(words, source, Failures(scripts=scripts.get(code, []))) for words, source, code in pairs]
    assert list(map(name, codes.tolist())) == expected


def test_scripts_by_language_need_the_languages() -> None:
    with pytest.raises(ValueError, match="hypotheses without a language"):
        find_text_failures(["a"], ["b"], Failures(scripts={"ru": ["Cyrillic"]}), typical_ratio=1.0)


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
        (30 * "a", 10 * "x", None),  # 40 against 20 characters, 10 being added to both sides
        (31 * "a", 10 * "x", "ratio"),
        (10 * "a", 31 * "x", "ratio"),
        ("Yes.", "x" * 18, None),
        ("a", "", "ratio"),  # the source is empty
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


def test_number_of_sources_must_equal_number_of_hypotheses() -> None:
    with pytest.raises(ValueError, match="2 hypotheses of 1 sources"):
        find_text_failures(["a", "b"], ["a"], LATIN, typical_ratio=1.0)


def test_ratio_of_a_language_with_short_lines() -> None:
    """A correct Japanese translation has a third of the source's characters; a third of that is too short."""
    sources = ["It is a fine day today, so let us go for a walk in the park together."] * 3
    hypotheses = ["今日はいい天気なので、一緒に公園を散歩しましょう。", "はい", "今日は" * 60]
    codes = find_text_failures(hypotheses, sources, Failures(), typical_ratio=0.36)
    assert list(map(name, codes.tolist())) == [None, "ratio", "ratio"]
    codes = find_text_failures(hypotheses, sources, Failures(max_ratio=0.0), typical_ratio=0.36)
    assert list(map(name, codes.tolist())) == [None, None, None]


def test_settings_list_the_failures_in_order() -> None:
    assert tuple(Failures.model_fields)[: len(FAILURES)] == FAILURES
