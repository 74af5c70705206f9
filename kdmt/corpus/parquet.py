"""Rows of Parquet tables, read in small batches. pyarrow is imported when a table is read."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any

from kdmt.corpus.archives import Position
from kdmt.corpus.formats import PARQUET
from kdmt.corpus.jsonl import text_problem
from kdmt.corpus.rows import MalformedRow, on_one_line
from kdmt.corpus.unreadable import NOT_UTF8
from kdmt.errors import UserError

_BATCH_ROWS = 4096
_BUFFER_BYTES = 1 << 20  # of each column
_END = struct.Struct("<I4s")  # length of the footer, and the signature again
_ARROW_SCHEMA = b"ARROW:schema"  # key of the metadata


def read_table(
    file: IO[bytes], *, name: str, texts: Sequence[str], others: Sequence[str] = (), position: Position
) -> Iterator[tuple[int, list[object]] | MalformedRow]:
    """Yield the number of each row, from 1, and the values of its columns.

    Args:
        file: table, readable at any position.
        name: name of the file, for messages.
        texts: columns whose values must be text; `translation.en` is the field `en` of the column `translation`.
        others: columns with values of any type.
        position: receives the number of rows that were read.

    Raises:
        UserError: if pyarrow is missing, or the table has no such column; the message lists its columns.
        EOFError: if the file is damaged.
    """
    pyarrow, parquet = _import(name)
    columns = [*texts, *others]
    position.unit = "row"
    try:
        table = parquet.ParquetFile(
            file,
            metadata=_metadata(parquet, file),
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
        _check_columns(table.schema_arrow, columns, name)
        for batch in table.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(columns)), use_threads=False):
            values = [_values(pyarrow, batch, column) for column in columns]
            for row in zip(*values, strict=True):
                position.number += 1
                yield _row(row, texts, name, position.number)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:  # UnicodeDecodeError: of the name of a column
        raise EOFError(" ".join(str(error).split())) from None


def _import(name: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.compute  # `_values` uses it
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{name}: a Parquet table, which needs a package: pip install 'kdmt[parquet]'") from None
    return pyarrow, pyarrow.parquet


def _metadata(parquet: Any, file: IO[bytes]) -> Any:
    """Return the metadata of a table without Arrow's own schema, None if the file is damaged or encrypted.

    By that schema, columns that were dictionaries in Arrow would be read as such, and each batch would have a copy of
    the whole dictionary.
    """
    size = file.seek(0, io.SEEK_END)
    if size < len(PARQUET) + _END.size:
        return None
    file.seek(size - _END.size)
    end = file.read(_END.size)
    length, magic = _END.unpack(end)
    if magic != PARQUET or length > size - len(PARQUET) - _END.size:
        return None
    file.seek(size - _END.size - length)
    before, key, after = file.read(length).rpartition(_ARROW_SCHEMA)
    footer = before + b"-" * len(key) + after  # another key, so that the schema is ignored
    return parquet.read_metadata(io.BytesIO(PARQUET + footer + end))


def _check_columns(schema: Any, columns: Sequence[str], name: str) -> None:
    known = list(_paths(schema, ""))
    for column in columns:
        if column not in known:
            raise UserError(f"{name}: no column {column!r}; the table has {', '.join(known) or 'none'}")


def _paths(fields: Any, prefix: str) -> Iterator[str]:
    """Yield the path of each column, with those of the fields of structures."""
    for field in fields:
        yield f"{prefix}{field.name}"
        if hasattr(field.type, "fields"):  # a structure
            yield from _paths(field.type.fields, f"{prefix}{field.name}.")


def _values(pyarrow: Any, batch: Any, column: str) -> list[object]:
    if column in batch.schema.names:
        array = batch.column(column)
    else:
        first, *rest = column.split(".")
        array = pyarrow.compute.struct_field(batch.column(first), rest)
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in array]


def _value(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return NOT_UTF8


def _row(
    row: Sequence[object], texts: Sequence[str], name: str, number: int
) -> tuple[int, list[object]] | MalformedRow:
    for value, field in zip(row, texts, strict=False):
        problem = NOT_UTF8.reason if value is NOT_UTF8 else text_problem(value, field)
        if problem is not None:
            return MalformedRow(name, number, problem, unit="row")
    return number, [on_one_line(value) if isinstance(value, str) else value for value in row]
