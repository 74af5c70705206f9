"""Tests of the rules about letters, scripts and characters of lost text."""

from __future__ import annotations

import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import rules as settings
from kdmt.corpus.rules.character_class import native_characters
from kdmt.corpus.rules.letters import BrokenCharacters, Letters, Script, letter_share, script_share
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText

text = st.text(st.sampled_from("aZé1 .,-дж中あア한ก็ก์فَ́ー„\u0301"), min_size=1, max_size=20)


def is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


@given(text)
def test_share_of_letters_is_that_of_the_categories(line: str) -> None:
    visible = line.replace(" ", "")
    expected = sum(map(is_letter, visible)) / len(visible) if visible else 1.0
    assert letter_share(LineText(line)) == pytest.approx(expected)


@given(text, st.sampled_from([("Latn", "Latin"), ("Cyrl", "Cyrillic"), ("Thai", "Thai"), ("Arab", "Arabic")]))
def test_share_of_a_script_is_that_of_its_unicode_property(line: str, script: tuple[str, str]) -> None:
    letters = regex.findall(r"\p{Alphabetic}", line)
    own = [letter for letter in letters if regex.match(rf"[\p{{{script[1]}}}\p{{Common}}\p{{Inherited}}]", letter)]
    expected = len(own) / len(letters) if letters else 1.0
    characters = native_characters(script[0])
    assert characters is not None
    assert script_share(LineText(line), characters) == pytest.approx(expected)


@given(text, text, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_rules_of_shares_look_at_both_sides(source: str, target: str, least: float) -> None:
    pair, languages = PairText(source, target), LanguagePair((True, True), ("de", "ru"))
    shares = [letter_share(LineText(line)) for line in (source, target)]
    assert Letters(settings.Letters(min=least), languages).breaks(pair) is (min(shares) < least)
    shares = [
        script_share(LineText(line), native_characters(script))  # type: ignore[arg-type]
        for line, script in ((source, "Latn"), (target, "Cyrl"))
    ]
    assert Script(settings.Script(min=least), languages).breaks(pair) is (min(shares) < least)


@pytest.mark.parametrize(
    ("language", "line", "is_broken"),
    [
        ("ja", "これはペンです。カタカナ漢字", False),
        ("ja", "Windows 11を使う人々です", False),
        ("ko", "한국어 大韓民國", False),
        ("zh", "中文ㄅㄆ", False),
        ("zh", "これはペンです", True),
        ("sr-Latn", "dobar dan", False),
        ("sr", "dobar dan", True),
        ("ru", "добрый день", False),
        ("de", "добрый день", True),
        ("vi", "xin chào", False),
        ("hi", "नमस्ते", False),
        ("ar", "السَّلَامُ عَلَيْكُم", False),
        ("en", "12 345", False),  # no letters
        ("qaa-Qaaa", "abc где", False),  # a script that Unicode does not know
    ],
)
def test_letters_are_of_the_script_of_the_language(language: str, line: str, is_broken: bool) -> None:
    rule = Script(settings.Script(), LanguagePair((True, True), (language, "en")))
    assert rule.breaks(PairText(line, "abc")) is is_broken


def test_without_languages_no_script_is_wrong() -> None:
    assert not Script(settings.Script(), LanguagePair()).breaks(PairText("где", "中"))


def test_broken_characters_are_those_that_no_text_has() -> None:
    """Check all characters: U+FFFD, noncharacters and private use."""
    rule = BrokenCharacters(settings.NoSettings(), LanguagePair())
    for code in (*range(0xD800), *range(0xE000, 0x110000, 1)):
        character = chr(code)
        noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
        expected = code == 0xFFFD or noncharacter or unicodedata.category(character) == "Co"
        if expected or code % 97 == 0:
            assert rule.breaks(PairText("a", f"b{character}")) is expected, hex(code)
