"""Tests of TSV corpora: malformed rows, header rows, and quotes as written by the csv module of Python."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import Corpus, HeldOut, Source
from kdmt.corpus.reading import Skipped, read_pairs
from kdmt.corpus.rows import MalformedRow
from kdmt.corpus.text_files import Malformed
from kdmt.corpus.tsv import read_rows
from kdmt.corpus.unreadable import MAX_LINE_BYTES
from kdmt.errors import UserError
from kdmt.languages import Direction

DIRECTION = Direction("en", "de")
COLUMNS = "another number of columns than the first row"


def pairs_of(path: Path, text: str, count: Malformed | None = None, **settings: Any) -> list[tuple[str, str]]:
    path.write_bytes(text.encode())
    return list(
        read_pairs(Corpus(tsv=Source(path=str(path)), **settings), [path], DIRECTION, Skipped(count or Malformed()))
    )


def test_rows_with_another_number_of_columns_are_dropped_and_counted(tmp_path: Path) -> None:
    text = "a\tx\nb\nc\tz\tz\nd\ty\n\n\te\tw\ne\tw\nf\tv\ng\tu\n"
    malformed = Malformed()
    path = tmp_path / "t.tsv"
    pairs = pairs_of(path, text, malformed)
    assert pairs == [("a", "x"), ("d", "y"), ("e", "w"), ("f", "v"), ("g", "u")]
    assert malformed.as_dict() == {COLUMNS: {"rows": 4, "first": [f"{path} line {line}" for line in (2, 3, 5, 6)]}}
    with pytest.raises(UserError, match=rf"t\.tsv line 2: {COLUMNS}: 1, not 2"):
        pairs_of(path, text, malformed="error")
    held_out = HeldOut(tsv=Source(path=str(path)))  # no lines are dropped from held-out sets, which may be published
    with pytest.raises(UserError, match=rf"t\.tsv line 2: {COLUMNS}: 1, not 2"):
        list(read_pairs(held_out, [path], DIRECTION))


def test_the_first_row_sets_the_number_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    assert pairs_of(path, "a\tx\t1\nb\ty\t2\n") == [("a", "x"), ("b", "y")]
    with pytest.raises(UserError, match=r"t\.tsv line 1: 2 columns, at least 3 expected"):
        pairs_of(path, "a\tx\nb\ty\n", target_column=2)
    with pytest.raises(UserError, match=rf"t\.tsv: 3 of 4 rows are malformed: {COLUMNS} \(.*t\.tsv line 2\)"):
        pairs_of(path, "a\tx\t1\nb\ty\nc\tz\nd\tw\n")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"en\t\xfcde", "not UTF-8"),
        (b"en\t" + b"x" * MAX_LINE_BYTES, "longer than 1,000,000 bytes"),
        (b'"en"x\tde', "a quote that is not closed, or text behind one"),
    ],
)
@pytest.mark.parametrize("names", [{}, {"source_field": "a", "target_field": "x"}])
def test_a_header_row_that_cannot_be_read_is_an_error(
    tmp_path: Path, header: bytes, reason: str, names: dict[str, str]
) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(header + b"\na\tx\nb\ty\n")
    corpus = Corpus(tsv=Source(path=str(path)), header=True, quoted=header.startswith(b'"'), **names)
    with pytest.raises(UserError) as caught:
        list(read_pairs(corpus, [path], DIRECTION))
    assert str(caught.value) == f"{path} line 1: the header row cannot be read: {reason}"


def test_a_header_row_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    assert pairs_of(path, "id\ten\tde\n1\ta\tx\n2\tb\ty\n", header=True, source_column=1, target_column=2) == [
        ("a", "x"),
        ("b", "y"),
    ]
    with pytest.raises(UserError, match="the corpus is empty"):
        pairs_of(path, "en\tde\n", header=True)


field = st.text(st.sampled_from("ab \"\t\n'é,"), max_size=8)


@given(st.lists(st.tuples(field, field, field), min_size=1, max_size=8))
def test_rows_with_quotes_round_trip(rows: list[tuple[str, str, str]]) -> None:
    """Write rows like `DataFrame.to_csv(sep="\\t")`: the csv module's QUOTE_MINIMAL with a newline after each row."""
    written = io.StringIO()
    csv.writer(written, delimiter="\t", quoting=csv.QUOTE_MINIMAL, lineterminator="\n").writerows(rows)
    lines = iter(written.getvalue().removesuffix("\n").split("\n"))
    found = list(read_rows(lines, name="t", needed=2, header=False, quoted=True))
    assert [row for _, row in found] == [[column.replace("\n", " ") for column in row] for row in rows]


def test_a_corpus_with_quotes(tmp_path: Path) -> None:
    text = '\ten\tde\r\n0\t"He said ""no""."\tEr sagte nein.\r\n1\t"two\tcolumns"\t"over\r\ntwo lines"\r\n'
    pairs = pairs_of(tmp_path / "t.tsv", text, header=True, quoted=True, source_column=1, target_column=2)
    assert pairs == [('He said "no".', "Er sagte nein."), ("two\tcolumns", "over two lines")]
    assert pairs_of(tmp_path / "t.tsv", '"a\tx\nb"\ty\n') == [('"a', "x"), ('b"', "y")]  # by default, quotes are text


def test_an_unclosed_quote_affects_only_its_line() -> None:
    lines = ["a\tx", '"b\ty', *(f"c{number}\tz" for number in range(500)), '5" disk\tw', '"d" e\tv', '"f"\tu']
    found = list(read_rows(iter(lines), name="t", needed=2, header=False, quoted=True))
    reason = "a quote that is not closed, or text behind one"
    assert found == [
        (1, ["a", "x"]),
        MalformedRow("t", 2, reason),
        *((number + 3, [f"c{number}", "z"]) for number in range(500)),
        (503, ['5" disk', "w"]),
        MalformedRow("t", 504, reason),
        (505, ["f", "u"]),
    ]


@pytest.mark.parametrize("settings", [{}, {"quoted": True}])
def test_a_row_that_is_too_long_is_dropped(tmp_path: Path, settings: dict[str, Any]) -> None:
    text = f"a\tx\n{'b' * MAX_LINE_BYTES}\ty\nc\tz\n"
    malformed = Malformed()
    path = tmp_path / "t.tsv"
    assert pairs_of(path, text, malformed, **settings) == [("a", "x"), ("c", "z")]
    assert malformed.as_dict() == {"longer than 1,000,000 bytes": {"rows": 1, "first": [f"{path} line 2"]}}


@pytest.mark.parametrize("side", ["source", "target"])
def test_the_pair_of_a_line_that_is_too_long_is_dropped(tmp_path: Path, side: str) -> None:
    files = {"source": ["a", "b", "c"], "target": ["x", "y", "z"]}
    files[side][1] = "w" * (MAX_LINE_BYTES + 1)
    for name, lines in files.items():
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    paths = [tmp_path / "source", tmp_path / "target"]
    sources = {name: Source(path=str(path)) for name, path in zip(files, paths, strict=True)}
    malformed = Malformed()
    assert list(read_pairs(Corpus(**sources), paths, DIRECTION, Skipped(malformed))) == [("a", "x"), ("c", "z")]
    assert malformed.as_dict() == {"longer than 1,000,000 bytes": {"rows": 1, "first": [f"{tmp_path / side} line 2"]}}
    with pytest.raises(UserError, match=rf"{side} line 2: longer than 1,000,000 bytes"):
        list(read_pairs(Corpus(**sources, malformed="error"), paths, DIRECTION))
    with pytest.raises(UserError, match=rf"{side} line 2: longer than 1,000,000 bytes"):
        list(read_pairs(HeldOut(**sources), paths, DIRECTION))


def test_files_of_different_length_are_refused_despite_malformed_rows(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("a\nb\n" + "c" * (MAX_LINE_BYTES + 1), encoding="utf-8")
    (tmp_path / "target").write_text("x\ny\n", encoding="utf-8")
    paths = [tmp_path / "source", tmp_path / "target"]
    corpus = Corpus(source=Source(path=str(paths[0])), target=Source(path=str(paths[1])))
    with pytest.raises(UserError, match=r"source has 3 lines, .*target has 2"):
        list(read_pairs(corpus, paths, DIRECTION))
