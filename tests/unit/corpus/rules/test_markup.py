"""Tests of the rules about HTML and the markup of templates and code."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config.rules import NoSettings
from kdmt.corpus.rules.markup import Entities, Markup, Tags
from kdmt.corpus.rules.pair_text import LanguagePair, PairText


@given(st.text(st.sampled_from("a&<>\"' é中"), max_size=20))
def test_escaped_text_is_restored(line: str) -> None:
    assert Entities().edit(html.escape(line)) == line or "&" in line


@pytest.mark.parametrize(
    ("line", "edited"),
    [
        ("AT&amp;T &lt;3 &quot;x&quot; &#39;y&#x27;", "AT&T <3 \"x\" 'y'"),
        ("&amp;quot;twice&amp;quot;", '"twice"'),
        ("caf&eacute;&nbsp;&euro;", "café\u00a0€"),
        ("R&D; a&b;c &unknown; &copy 2", "R&D; a&b;c &unknown; &copy 2"),
        ("x?a=1&lt=2", "x?a=1&lt=2"),
        ("plain", "plain"),
    ],
)
def test_entities_become_characters(line: str, edited: str) -> None:
    assert Entities().edit(line) == edited


@pytest.mark.parametrize(
    ("line", "edited"),
    [
        ("a <b>bold</b> word", "a bold word"),
        ("one<br>two<br/>three<BR />", "one two three "),
        ('<a href="x>y">link</a>', 'y">link'),
        ("<p class='x'>text</p>", " text "),
        ("a < b and c > d, <3, <unk>, <Name>", "a < b and c > d, <3, <unk>, <Name>"),
        ("<strong>x</strong><sub>2</sub>", "x2"),
    ],
)
def test_tags_are_removed(line: str, edited: str) -> None:
    assert Tags().edit(line) == edited


@pytest.mark.parametrize(
    ("line", "is_broken"),
    [
        *[
            (f"a {mark} b", True)
            for mark in ("{{x}}", "[[x]]", "{% x %}", "<!-- x", "</nav2>", "<?php", "<%= x", "${x}")
        ],
        *[(line, False) for line in ("a {b} [c] <d>", "x < y > z", "100 % $ 5", "a/b", "[1]")],
    ],
)
def test_markup_of_templates_and_code(line: str, is_broken: bool) -> None:
    rule = Markup(NoSettings(), LanguagePair())
    assert rule.breaks(PairText(line, "x")) is is_broken
    assert rule.breaks(PairText("x", line)) is is_broken
