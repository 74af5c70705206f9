"""Tests of rows of JSONL files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.jsonl import find_field, read_objects
from kdmt.corpus.rows import MalformedRow
from kdmt.corpus.unreadable import MAX_LINE_BYTES, NOT_UTF8, Unreadable


def objects(
    *lines: str | Unreadable, texts: tuple[str, ...] = ("a", "b"), others: tuple[str, ...] = ()
) -> list[object]:
    return list(read_objects(iter(lines), name="f", texts=texts, others=others))


def test_fields_are_found_by_name_and_by_path() -> None:
    values = {"a": 1, "t": {"en": "x", "deep": {"er": "y"}}, "t.de": "z", "list": [1]}
    assert [find_field(values, name) for name in ("a", "t.en", "t.deep.er", "t.de")] == [1, "x", "y", "z"]
    assert [find_field(values, name) for name in ("b", "t.fr", "a.b", "list.0", "")] == [None] * 5


def test_rows_have_their_line_numbers_and_other_fields() -> None:
    lines = ['{"b": "y", "a": "x", "s": 0.5}', "", '{"a": "one\\nline", "b": "two\\r\\nlines", "s": null}']
    assert objects(*lines, others=("s",)) == [(1, ["x", "y", 0.5]), (3, ["one line", "two lines", None])]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("{", "not JSON"),
        ('{"a": "x"} {"b": "y"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["a", "b"]', "not a JSON object"),
        ('{"a": "x"}', "no field 'b', or null"),
        ('{"a": "x", "b": null}', "no field 'b', or null"),
        ('{"a": 5, "b": "y"}', "field 'a' is not text"),
        ('{"a": "\\ud800", "b": "y"}', "field 'a' is not Unicode text"),
        (json.dumps({"a": "é" * (MAX_LINE_BYTES // 2 + 1), "b": "y"}), "longer than 1,000,000 bytes"),
        (NOT_UTF8, "not UTF-8"),
    ],
)
def test_malformed_rows_are_named(line: str | Unreadable, kind: str) -> None:
    good = '{"a": "x", "b": "y"}'
    assert objects(good, line, good) == [(1, ["x", "y"]), MalformedRow("f", 2, kind), (3, ["x", "y"])]


text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30)


@given(st.lists(st.tuples(text, text), max_size=8), st.booleans())
def test_text_is_the_same_after_json(pairs: list[tuple[str, str]], escaped: bool) -> None:
    lines = [json.dumps({"t": {"a": a}, "b": b}, ensure_ascii=escaped) for a, b in pairs]
    found = objects(*lines, texts=("t.a", "b"))
    assert found == [(number, [a, b]) for number, (a, b) in enumerate(pairs, start=1)]
