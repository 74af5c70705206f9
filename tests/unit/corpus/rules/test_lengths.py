"""Tests of the rules that limit the lengths of lines and words."""

from __future__ import annotations

import pytest

from kdmt.config import Clean
from kdmt.corpus.clean import broken_rule
from kdmt.corpus.rules.pair_text import LanguagePair, PairText
from kdmt.corpus.rules.table import build_rules


def broken(source: str, target: str, clean: Clean, *, spaced: tuple[bool, bool] = (True, True)) -> str | None:
    """Return the name of the first rule of these settings that the pair breaks."""
    return broken_rule(PairText(source, target), build_rules(clean, LanguagePair(spaced)).dropping)


def words(number: int) -> str:
    return " ".join(f"w{position}" for position in range(number))


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        ("", "x", "empty"),
        ("x", "", "empty"),
        ("", "", "empty"),
        (words(1), words(3), "min_words"),
        (words(3), words(1), "min_words"),
        (words(2), words(5), None),
        (words(10), words(9), None),
        ("a b " + 96 * "c", "a b", None),
        ("a b " + 97 * "c", "a b", "max_characters"),
        ("a b", "a b " + 97 * "c", "max_characters"),
        (words(9), words(11), "max_words"),
        (words(11), words(9), "max_words"),
        (words(3), words(3), "copy"),
    ],
)
def test_the_first_broken_rule_is_returned(source: str, target: str, rule: str | None) -> None:
    clean = Clean(min_words=2, max_words=10, max_characters=100)
    assert broken(source, target, clean) == rule
    assert broken("a b", "a b", Clean(drop_copies=False)) is None


def test_words_are_counted_only_on_sides_with_spaces() -> None:
    clean = Clean(min_words=2, max_words=3)
    assert broken("a b", "はい", clean) == "min_words"
    assert broken("a b", "はい", clean, spaced=(True, False)) is None
    assert broken("はい", "a", clean, spaced=(False, True)) == "min_words"
    assert broken("a b c d", "一 二 三 四 五", clean, spaced=(False, False)) is None
    assert broken("a b", "一 二 三 四 五", clean) == "max_words"


def test_zero_disables_a_limit() -> None:
    long = words(5000)
    none = Clean(min_words=0, max_words=0, max_characters=0, max_ratio=0.0)
    assert broken(long, "x", Clean(max_words=0)) == "max_characters"
    assert broken(long, "x", Clean(max_characters=0)) == "max_words"
    assert broken(long, "x", none) is None
    assert broken("", "x", none) == "empty"


@pytest.mark.parametrize(
    ("source", "target", "spaced", "is_broken"),
    [
        ("a b", "c", (True, True), False),
        ("aaaa b", "c", (True, True), False),
        ("aaaaa b", "c", (True, True), True),
        ("a", "b ccccc d", (True, True), True),
        ("aa bb cc dd", "c", (True, True), False),
        ("これはペンです", "c", (False, True), False),
        ("a", "これはペンです", (True, False), False),
    ],
)
def test_longest_word(source: str, target: str, spaced: tuple[bool, bool], is_broken: bool) -> None:
    clean = Clean.model_validate({"rules": [{"longest_word": {"max": 4}}]})
    assert broken(source, target, clean, spaced=spaced) == ("longest_word" if is_broken else None)


@pytest.mark.parametrize(
    ("source", "target", "spaced", "is_broken"),
    [
        ("a bc", "def", (True, True), False),  # 1.5 characters per word
        ("a b", "def", (True, True), True),
        ("def", "a b", (True, True), True),
        ("a b", "def", (False, True), False),
        ("abcdef", "a bc", (True, True), False),
        ("abcdefg", "a bc", (True, True), True),
        ("አለ፡ገባ፡ወጣ", "a bc", (True, True), False),  # 2 characters per word between Ethiopic wordspaces
    ],
)
def test_mean_word(source: str, target: str, spaced: tuple[bool, bool], is_broken: bool) -> None:
    clean = Clean.model_validate({"rules": [{"mean_word": {"min": 1.5, "max": 6.0}}]})
    assert broken(source, target, clean, spaced=spaced) == ("mean_word" if is_broken else None)


@pytest.mark.parametrize(
    ("settings", "spaced", "is_broken"),
    [
        ({"min": 0.5, "slack": 0}, (True, True), True),  # 2 of 5 words
        ({"min": 0.4, "slack": 0}, (True, True), False),
        ({"min": 0.5, "slack": 1}, (True, True), False),  # 3 of 6
        ({"min": 0.5, "slack": 0}, (True, False), False),
        ({"min": 0.5, "slack": 0, "unit": "characters"}, (True, False), False),  # 5 of 10 characters
        ({"min": 0.51, "slack": 0, "unit": "characters"}, (False, False), True),
    ],
)
def test_length_ratio(settings: dict[str, object], spaced: tuple[bool, bool], is_broken: bool) -> None:
    clean = Clean.model_validate({"rules": [{"length_ratio": settings}]})
    for source, target in (("ab cd", "a b c d ef"), ("a b c d ef", "ab cd")):
        assert broken(source, target, clean, spaced=spaced) == ("length_ratio" if is_broken else None)
