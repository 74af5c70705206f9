"""Tests of classes of characters."""

from __future__ import annotations

import pytest

from kdmt.corpus.rules.character_class import CharacterClass, native_characters


def test_characters_outside_a_class_are_returned_at_every_call() -> None:
    vowels = CharacterClass("[aeiou]")
    for _ in range(2):
        assert vowels.others(frozenset("abc")) == {"b", "c"}
        assert vowels.others(frozenset("aei")) == frozenset()
    assert vowels.others(frozenset("xa")) == {"x"}


@pytest.mark.parametrize(
    ("script", "inside", "outside"),
    [
        ("Latn", "aé1 .\u0301µ", "д中"),
        ("Jpan", "あア漢ー1", "aд한"),
        ("Kore", "한漢", "あ"),
        ("Hans", "中ㄅ", "あ한"),
        ("Hrkt", "あア", "漢"),
        ("Zzzz", "", ""),
    ],
)
def test_native_characters_are_all_but_letters_of_other_scripts(script: str, inside: str, outside: str) -> None:
    characters = native_characters(script)
    assert characters is not None
    assert characters.others(frozenset(inside + outside)) == frozenset(outside)
    assert characters.has_ascii_letters is (script == "Latn")


def test_a_script_unknown_to_unicode_has_no_class() -> None:
    assert native_characters("Qaaa") is None
