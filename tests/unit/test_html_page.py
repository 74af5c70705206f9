"""Tests of the frame of HTML pages and of tables: valid structure, escaped text, nothing loaded."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.html_page import page_html, table_html


class Reader(HTMLParser):
    """Collect the tags and the text of each cell of a page, as a browser reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.append(tag)
        self.open = tag in ("td", "th", "caption")
        if self.open:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = self.open and tag not in ("td", "th", "caption")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.cells[-1] += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


@given(cell=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1))
def test_every_text_is_escaped(cell: str) -> None:
    found = read(table_html(cell, [cell, "b"], [[cell, "x"]], [False, True]))
    assert found.cells == [cell, cell, "b", cell, "x"]
    assert set(found.tags) == {"table", "caption", "tr", "th", "td"}


def test_a_table_without_caption_and_headings_has_neither() -> None:
    assert read(table_html("", ["", ""], [["a", "1"]], [False, True])).tags == ["table", "tr", "td", "td"]


@pytest.mark.parametrize("title", ["Scores", "<script>alert(1)</script>"])
def test_a_page_has_a_title_and_loads_nothing(title: str) -> None:
    page = page_html(title, "<p>text</p>", style="p { color: red; }\n")
    found = read(page)
    assert found.tags[:2] == ["html", "head"]
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert "http" not in page
    assert "color-scheme: light dark" in page
    assert "p { color: red; }" in page
