"""Tests of the repair of text that was read in the wrong encoding."""

from __future__ import annotations

import ftfy
import pytest
from bench_rules import LABELLED, read_labelled

from kdmt.corpus.rules.encodings import Mojibake


@pytest.mark.parametrize(
    "text", ["Schöne Grüße", "«École» à l’été", "Příliš žluťoučký kůň", "Привет, мир", "日本語の文"]
)
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp1251"])
def test_text_in_utf_8_is_repaired(text: str, encoding: str) -> None:
    try:
        wrong = text.encode().decode(encoding)
    except UnicodeDecodeError:
        pytest.skip("this encoding has no character for a byte")
    if ftfy.fix_encoding(wrong) != text:
        pytest.skip("ftfy does not repair it either")
    assert Mojibake().edit(wrong) == text


@pytest.mark.parametrize("line", ["“CAFÉ”", "Ã", "naïve", "«СССР»", "Größe – 5 €", "plain", "中文", "ÀÉÎÕÜ"])
def test_correct_text_is_unchanged(line: str) -> None:
    assert Mojibake().edit(line) == line


def test_lines_without_signs_are_those_that_ftfy_leaves_alone() -> None:
    """Compare with ftfy on all labelled lines: the fast test for signs must not miss any that ftfy repairs."""
    lines = [line for each in read_labelled(LABELLED) for line in each.pair]
    assert [Mojibake().edit(line) for line in lines] == [ftfy.fix_encoding(line) for line in lines]
