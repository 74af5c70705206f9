"""Rows of tab-separated files, plain or quoted as with `csv.QUOTE_MINIMAL` (for example by `to_csv` of pandas)."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from kdmt.corpus.rows import MalformedRow
from kdmt.corpus.unreadable import MAX_LINE_BYTES, Unreadable
from kdmt.errors import UserError

_QUOTE = '"'
_MAX_LINES = 100  # of a quoted row, so that a quote that is never closed does not include the rest of the file


def read_rows(
    lines: Iterator[str | Unreadable], *, name: str, needed: int, header: bool, quoted: bool
) -> Iterator[tuple[int, list[str]] | MalformedRow]:
    r"""Yield the line number and the columns of each row. The first row determines the number of columns.

    Args:
        lines: lines of the file, without their ends.
        name: name of the file, for messages.
        needed: minimum number of columns.
        header: whether the first row contains the names of the columns, and no pair.
        quoted: whether columns may be quoted. Quoted columns may contain tabs, and newlines, which become spaces.

    Raises:
        UserError: if the first row has fewer columns than needed, or a header cannot be read.
    """
    num_columns = 0
    for line, row in _quoted_rows(lines) if quoted else _plain_rows(lines):
        if isinstance(row, str):
            if header and not num_columns:
                raise unreadable_header(name, line, row)
            yield MalformedRow(name, line, row)
        elif not num_columns:
            num_columns = len(row)
            if num_columns < needed:
                raise UserError(f"{name} line {line}: {num_columns} columns, at least {needed} expected")
            if not header:
                yield line, row
        elif len(row) != num_columns:
            yield MalformedRow(
                name, line, "another number of columns than the first row", f": {len(row)}, not {num_columns}"
            )
        else:
            yield line, row


def unreadable_header(name: str, line: int, reason: str) -> UserError:
    """Return the error of a first row with the names of the columns that cannot be read."""
    return UserError(f"{name} line {line}: the header row cannot be read: {reason}")


def find_columns(names: list[str], wanted: list[str], name: str) -> list[int]:
    """Return the indices of columns by their names in the first row.

    Raises:
        UserError: if a name is missing or occurs twice; the message lists the names.
    """
    for each in wanted:
        if names.count(each) != 1:
            what = "two columns" if each in names else "no column"
            raise UserError(f"{name}: {what} {each!r}; the first row has {', '.join(names)}")
    return [names.index(each) for each in wanted]


def _plain_rows(lines: Iterator[str | Unreadable]) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the line number of each row and its columns, or the kind of error."""
    for number, line in enumerate(lines, start=1):
        yield number, line.reason if isinstance(line, Unreadable) else line.split("\t")


def _quoted_rows(lines: Iterator[str | Unreadable]) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the line number of each quoted row and its columns, or the kind of error.

    If a quote is not closed, only the first line of the row is malformed, and reading continues with the next line.
    """
    ahead: deque[str | Unreadable] = deque()  # lines that have been read but belong to no row yet
    number = 1
    while ahead or _fetch(lines, ahead):
        first = ahead[0]
        row: list[str] | str
        if isinstance(first, Unreadable):
            taken, row = 1, first.reason
        elif _QUOTE not in first:
            taken, row = 1, first.split("\t")
        else:
            taken, row = _parse_quoted(lines, ahead)
        for _ in range(taken):
            ahead.popleft()
        yield number, row
        number += taken


def _fetch(lines: Iterator[str | Unreadable], ahead: deque[str | Unreadable]) -> bool:
    line = next(lines, None)
    if line is None:
        return False
    ahead.append(line)
    return True


def _parse_quoted(lines: Iterator[str | Unreadable], ahead: deque[str | Unreadable]) -> tuple[int, list[str] | str]:
    """Return the number of lines of a row, and its columns or the kind of error of its first line."""
    taken = size = 0

    def feed() -> Iterator[str]:
        nonlocal taken, size
        while taken < _MAX_LINES and (taken < len(ahead) or _fetch(lines, ahead)):
            line = ahead[taken]
            if isinstance(line, Unreadable) or (size := size + len(line)) > MAX_LINE_BYTES:
                return
            taken += 1
            yield f"{line}\n"

    csv.field_size_limit(MAX_LINE_BYTES)
    try:
        row = next(csv.reader(feed(), delimiter="\t", quotechar=_QUOTE, strict=True))
    except csv.Error:
        return 1, "a quote that is not closed, or text behind one"
    return taken, [" ".join(column.split("\n")) for column in row]
