"""Boundaries of sentences, and parts of sentences that are too long."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.documents.sentences import LINE_BREAK, check_splitter, sentence_spans, split_long
from kdmt.errors import UserError


def sentences(text: str, language: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text, language)]


def test_sentences_end_at_full_stops_but_not_at_abbreviations() -> None:
    text = '  Dr. Smith went home.  He slept. "Is it?" he asked. '
    assert sentences(text, "en") == ["Dr. Smith went home.", "He slept.", '"Is it?" he asked.']


def test_sentences_of_a_language_without_spaces() -> None:
    assert sentences("你好。我是学生。", "zh-Hans") == ["你好。", "我是学生。"]


def test_unknown_languages_have_the_rules_of_english() -> None:
    assert sentences("One. Two.", "no language at all") == ["One.", "Two."]


@settings(max_examples=40)
@given(st.text(st.sampled_from("ab. ?!\t\"'()A1。\xa0é😀\x00#")))
def test_spans_cover_everything_but_whitespace(text: str) -> None:
    position = 0
    for start, end in sentence_spans(text, "en"):
        assert not text[position:start].strip()
        assert text[start:end] == text[start:end].strip() != ""
        position = end
    assert not text[position:].strip()


def test_line_breaks_are_those_of_splitlines() -> None:
    text = "".join(map(chr, range(0x3000))) + "\r\n"
    assert LINE_BREAK.split(text)[::2] == [line.rstrip() and line for line in text.splitlines()] + [""]


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("short", ["short"]),
        ("one two three, four five six", ["one two three,", "four five six"]),
        ("one two three four", ["one two", "three four"]),
        ("abcdefghijklmnopqrstuvwxyz", ["abcdefghijklm", "nopqrstuvwxyz"]),
    ],
)
def test_long_sentences_are_split_between_clauses_then_words_then_characters(sentence: str, parts: list[str]) -> None:
    assert split_long(sentence, lambda part: len(part) <= 14) == parts


@settings(max_examples=40)
@given(st.text(st.sampled_from("ab ,.，"), max_size=60).map(str.strip), st.integers(1, 20))
def test_parts_hold_all_characters_and_fit(sentence: str, most: int) -> None:
    parts = split_long(sentence, lambda part: len(part) <= most)
    assert "".join(parts).replace(" ", "") == sentence.replace(" ", "")
    assert all(0 < len(part) <= most for part in parts)


def test_the_model_sees_no_part_of_more_than_a_thousand_characters() -> None:
    seen: list[int] = []

    def fits(part: str) -> bool:
        seen.append(len(part))
        return True

    parts = split_long("x" * 5_000, fits)
    assert "".join(parts) == "x" * 5_000
    assert max(seen) <= 1000


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(UserError, match=r"pip install 'kdmt\[documents\]'"):
        check_splitter()


@pytest.mark.parametrize("language", ["de", "en", "fr", "ja", "zh"])
@pytest.mark.parametrize("space", ["\xa0", "\u3000", "\u202f", "\u2009", "\x85"])
def test_wide_spaces_before_a_full_stop_are_ordinary_spaces_for_the_splitter(language: str, space: str) -> None:
    for text in ("Vitamin B{}. Und", "B{}.", "É{}. Oui.{}Non.", "Plan B{}! Ja."):
        assert sentence_spans(text.format(space, space), language) == sentence_spans(text.format(" ", " "), language)


class Panic(BaseException):
    """Stand-in for the panic of a library in Rust, which is not an Exception."""


@pytest.mark.parametrize("error", [Panic, KeyboardInterrupt])
def test_a_text_on_which_the_splitter_panics_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def panic(_: str, __: str) -> list[str]:
        raise error

    monkeypatch.setattr("sentencex.segment", panic)
    if error is Panic:
        assert sentences(" One. Two. ", "en") == ["One. Two."]
    else:
        with pytest.raises(KeyboardInterrupt):
            sentence_spans("One. Two.", "en")
