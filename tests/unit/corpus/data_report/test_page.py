"""Tests of the page of the data report: all content is shown and escaped, and the size is bounded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.data_report.histogram import Histogram
from kdmt.corpus.data_report.measurements import VocabularyUse
from kdmt.corpus.data_report.page import (
    DataReport,
    ReportedRules,
    ReportedSide,
    ReportedSplit,
    ReportedText,
    render_page,
)

HOSTILE = '</td></table><script>alert("1")</script> & <img src=x onerror=alert(1)> \u202e\x1b[31m'
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "nav", "a", "p", "div", "table", "caption", "tr"),
    *("th", "td", "ul", "li", "details", "summary", "strong", "figure", "svg", "rect", "path", "text", "span"),
}
EMPTY = {"meta", "rect", "path"}


class Reader(HTMLParser):
    """Read a page as a browser does: tags, attributes and text, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.unclosed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in EMPTY:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.unclosed == []
    return reader


def make_report(text: str = "corpus", **changes: Any) -> DataReport:
    side = ReportedSide(
        lang="en",
        tokens=12_345,
        unknown=7,
        mean_size=12.3,
        vocabulary=VocabularyUse(symbols=1_000, used=900, frequent=400),
        tokens_per_word=1.25,
        characters_per_token=3.5,
        sizes=Histogram(("1", "2"), (3, 4)),
        languages={"en": 95, text: 5},
    )
    rules = ReportedRules(text, 200, {"empty": 20, "copy": 0}, {"whitespace": 4}, {"empty": [(text, "x"), ("", text)]})
    report = DataReport(
        title=f"Data report: {text}",
        summary=[("pairs read", "200")],
        warnings=[f"warning about {text}"],
        texts=[ReportedText("train.0", (text,), ("ab" * 32,), text, 200, 180, 360, "<bt>")],
        rules=[rules],
        patterns={"empty": [((text, ""), 17)]},
        sides=[side, replace(side, lang="de", tokens_per_word=None)],
        splits=[ReportedSplit("valid", "en", 10, 100, 1, 2)],
        ratios=Histogram(("below 1", "1+"), (5, 6)),
        sampled_pairs=11,
        shared={"pair": [(text, text, 13)], "source": [(text, text, 21)], "target": []},
        held_out=[(text, "valid.source", 14)],
        held_out_shared=[("test", "valid", 15)],
        suggestion=text,
    )
    return replace(report, **changes)


def test_every_part_is_on_the_page() -> None:
    shown = read(render_page(make_report()))
    text = "\n".join(shown.text)
    for wanted in (
        *(
            "pairs read",
            "warning about corpus",
            "ab" * 6,
            "180",
            "360",
            "90.0%",
            "20 (10.0%)",
            "4 (2.0%)",
            "17",
            "<bt>",
        ),
        *("12,345", "12.3", "1.25", "3.50", "7 (0.1%)", "40.0%", "1 (1.0%)", "2 (2.0%)", "13", "14", "15", "17"),
        "95.0%",
        *("Sources", "Kept and dropped", "Examples", "Patterns", "Lengths", "Languages", "Overlaps", "Vocabulary"),
        *("tokens of a sentence, de", "ratio of target to source characters", "11 pairs"),
    ):
        assert wanted in text, wanted
    assert "copy" not in text  # it dropped nothing
    assert "pairs that occur before" in text
    assert "pairs whose source occurs before" in text
    assert "21" in text
    assert "pairs whose target occurs before" not in text


def test_sections_without_content_are_left_out() -> None:
    sides = [replace(side, languages={}) for side in make_report().sides]
    found = make_report(patterns={}, shared={"source": []}, held_out=[], held_out_shared=[], sides=sides)
    text = "\n".join(read(render_page(found)).text)
    assert not [title for title in ("Patterns", "Languages", "Overlaps") if title in text]


def test_hostile_text_stays_text() -> None:
    page = render_page(make_report(HOSTILE))
    shown = read(page)
    assert shown.tags <= TAGS
    assert not {name for name in shown.attributes if name.startswith("on") or name in ("src", "srcdoc")}
    assert "".join(shown.text).count("<script>") > 5  # as visible text
    cells = re.findall(r"<td class=text dir=auto>(.*?)</td>", page, flags=re.DOTALL)
    assert [cell for cell in cells if "[31m" in cell]
    assert all("\x1b" not in cell and "\u202e" not in cell for cell in cells)  # they are shown by their codes


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_gives_a_valid_page(text: str) -> None:
    assert read(render_page(make_report(text))).tags <= TAGS


def test_nothing_is_loaded() -> None:
    page = render_page(make_report()).replace("http://www.w3.org/2000/svg", "")
    assert not [word for word in ("http:", "https:", "url(", "@import", "<script", "<link") if word in page]


def many_corpora(count: int) -> DataReport:
    long = "ж" * 250
    rules = [f"rule_{number}" for number in range(25)]
    counts: Mapping[str, int] = dict.fromkeys(rules, 1_000_000)
    examples = {rule: [(long, long)] * 10 for rule in rules}
    corpora = [ReportedRules(f"train.{number} {long}", 10**8, counts, counts, examples) for number in range(count)]
    return make_report(
        rules=corpora,
        texts=[ReportedText(each.name, (long,), ("a" * 64,), long, 10**8, 10**7, 10**7) for each in corpora],
        shared={"pair": [(one.name, other.name, 5) for one in corpora for other in corpora]},
        held_out=[(one.name, f"test_{number}.source", 5) for one in corpora for number in range(20)],
        warnings=[long] * 10_000,
    )


@pytest.mark.parametrize("count", [100, 1_000])
def test_the_page_is_bounded_for_many_corpora(count: int) -> None:
    page = render_page(many_corpora(count))
    assert len(page.encode()) < 4_000_000
    read(page)


def test_examples_of_the_rules_that_drop_most_come_first() -> None:
    corpora = [
        ReportedRules(
            f"train.{number}",
            10_000,
            {"rare": 1, "frequent": 100},
            {},
            {
                "rare": [("rare", f"r{number}")] * 10,
                "frequent": [("frequent", f"f{number}")] * 10,
            },
        )
        for number in range(150)
    ]
    text = "\n".join(read(render_page(make_report(rules=corpora))).text)
    assert text.count("\nfrequent\n") >= 1_000
    assert "f99" in text
    assert "r0" not in text
    assert "f100" not in text


def test_equal_reports_give_equal_pages() -> None:
    assert render_page(make_report()) == render_page(make_report())
