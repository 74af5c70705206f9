"""Tests of rows of Parquet tables."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from corpus_formats import parquet
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.archives import Position
from kdmt.corpus.parquet import read_table
from kdmt.corpus.rows import MalformedRow
from kdmt.errors import UserError


def rows(
    content: bytes, texts: tuple[str, ...] = ("translation.en", "translation.de"), others: tuple[str, ...] = ()
) -> list[object]:
    file = io.BytesIO(content)
    return list(read_table(file, name="t", texts=texts, others=others, position=Position()))


def table(**columns: object) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30)


@given(st.lists(st.tuples(text, text), min_size=1, max_size=8), st.integers(1, 3))
def test_text_is_the_same_after_parquet(pairs: list[tuple[str, str]], row_group_size: int) -> None:
    found = rows(parquet(pairs, row_group_size), others=("score",))
    assert found == [(number, [*pair, number - 1]) for number, pair in enumerate(pairs, start=1)]


def test_plain_columns_and_dictionaries_are_read() -> None:
    content = table(**{"en.x": ["a", "b\nc"], "de": pyarrow.array(["x", "x"]).dictionary_encode(), "n": [0.5, None]})
    assert rows(content, ("en.x", "de"), ("n",)) == [(1, ["a", "x", 0.5]), (2, ["b c", "x", None])]
    assert rows(content, ("de", "de")) == [(1, ["x", "x"]), (2, ["x", "x"])]


def test_malformed_rows_are_named() -> None:
    wrong = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff")]
    )
    content = table(
        en=pyarrow.concat_arrays([pyarrow.array(["a", None, "c"]), wrong, pyarrow.array(["e"])]),
        de=["x", "y", "z", "v", "w"],
        number=[1, 2, 3, 4, 5],
    )
    assert rows(content, ("en", "de")) == [
        (1, ["a", "x"]),
        MalformedRow("t", 2, "no field 'en', or null", unit="row"),
        (3, ["c", "z"]),
        MalformedRow("t", 4, "not UTF-8", unit="row"),
        (5, ["e", "w"]),
    ]
    assert rows(content, ("de", "number"))[0] == MalformedRow("t", 1, "field 'number' is not text", unit="row")


def test_a_row_whose_structure_is_null_is_malformed() -> None:
    content = table(translation=pyarrow.array([{"en": "a", "de": "x"}, None]))
    assert rows(content)[1] == MalformedRow("t", 2, "no field 'translation.en', or null", unit="row")


def test_missing_columns_and_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        rows(parquet([("a", "x")]), ("translation.fr", "translation.de"))
    expected = "t: no column 'translation.fr'; the table has score, translation, translation.en, translation.de"
    assert str(caught.value) == expected
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"t: a Parquet table, which needs a package: pip install 'kdmt\[parquet\]'"):
        rows(b"PAR1")


def test_a_damaged_table_is_refused() -> None:
    content = parquet([("a" * 1000, "x"), ("b", "y")])
    for damaged in (content[:-1], content[:100], content[:-8] + b"\xff\xff\xff\x7fPAR1"):
        with pytest.raises((EOFError, OSError)):
            rows(damaged)


def test_a_name_of_a_column_that_is_not_utf8_is_damage() -> None:
    content = table(en=["a"], de=["b"], ümlaut=["c"]).replace("ümlaut".encode(), b"\xff\xffmlaut")
    with pytest.raises(EOFError):
        rows(content, ("en", "de"))


def test_dictionaries_of_arrow_are_read_as_text_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch of a column of Arrow's dictionary type would have a copy of the whole dictionary."""
    values = [f"{number:0100}" for number in range(20_000)]
    text = pyarrow.array(values).dictionary_encode()
    content = io.BytesIO()
    names = {"en": text, "de": pyarrow.array(values, pyarrow.large_string())}
    pyarrow.parquet.write_table(pyarrow.table(names), content, row_group_size=20_000, dictionary_pagesize_limit=1 << 30)
    sizes = []
    real = pyarrow.parquet.ParquetFile.iter_batches

    def recorded(*args: Any, **named: Any) -> Iterator[Any]:
        for batch in real(*args, **named):
            sizes.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", recorded)
    assert rows(content.getvalue(), ("en", "de")) == [(n, [value, value]) for n, value in enumerate(values, start=1)]
    assert max(sizes) < 2 * 4096 * 110  # two columns of 4,096 rows


def test_a_table_without_the_schema_of_arrow_is_read() -> None:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"en": ["a"], "de": ["x"]}), file, store_schema=False)
    assert rows(file.getvalue(), ("en", "de")) == [(1, ["a", "x"])]
