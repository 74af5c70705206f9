"""Tests of the rule that URLs, domain names and e-mail addresses agree."""

from __future__ import annotations

import time

import pytest

from kdmt.config.rules import NoSettings
from kdmt.corpus.rules.links import Links, find_links
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText


@pytest.mark.parametrize(
    ("line", "links"),
    [
        ("No link. None here", set()),
        ("See https://Example.org/A?b=1#c.", {"example.org/a?b=1#c"}),
        ("(http://www.example.org/)", {"example.org"}),
        ("www.example.org, example.org and example.org/x", {"example.org", "example.org/x"}),
        ("Write to First.Last+x@mail.example.com.", {"first.last+x@mail.example.com"}),
        ("siehe „http://example.org“ oder a@b.de!", {"example.org", "a@b.de"}),
        ("ftp://host/file und http://localhost:80/", {"host/file", "localhost:80"}),
        ("The end.Begin again", set()),
        ("z.B. d.h. e.g. p.m. u.s.w. 3.5 1.2.3", set()),
        ("Node.js", {"node.js"}),
        ("サイトhttps://example.org/を見る", {"example.org/を見る"}),
        ("サイト「https://example.org/」", {"example.org/」"}),
    ],
)
def test_links_of_a_line(line: str, links: set[str]) -> None:
    assert find_links(LineText(line)) == links


@pytest.mark.parametrize(
    ("source", "target", "is_broken"),
    [
        ("see a.org", "siehe a.org.", False),
        ("see a.org", "siehe https://www.a.org/", False),
        ("see a.org", "siehe a.de", True),
        ("see a.org", "siehe", True),
        ("x", "y", False),
    ],
)
def test_links_of_both_sides_are_equal(source: str, target: str, is_broken: bool) -> None:
    assert Links(NoSettings(), LanguagePair()).breaks(PairText(source, target)) is is_broken


@pytest.mark.parametrize("line", ["a" * 20_000 + ".b", "a." * 10_000, "a-" * 10_000 + "@.", "a+" * 3_000 + ".x y"])
def test_long_lines_are_searched_quickly(line: str) -> None:
    start = time.process_time()
    find_links(LineText(line))
    assert time.process_time() - start < 2.0
