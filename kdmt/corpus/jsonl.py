"""Rows of JSONL files: one JSON object per line, with fields by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from kdmt.corpus.rows import MalformedRow, on_one_line
from kdmt.corpus.unreadable import MAX_LINE_BYTES, TOO_LONG, Unreadable


def read_objects(
    lines: Iterator[str | Unreadable], *, name: str, texts: Sequence[str], others: Sequence[str] = ()
) -> Iterator[tuple[int, list[object]] | MalformedRow]:
    """Yield the line number and the values of the fields of each object. Empty lines are skipped.

    Args:
        lines: lines of the file.
        name: name of the file, for messages.
        texts: fields whose values must be text; `translation.en` is `en` in the object `translation`, unless there is a
            field of exactly this name.
        others: fields with values of any type.
    """
    for number, line in enumerate(lines, start=1):
        found = line if isinstance(line, Unreadable) else _parse(line)
        if isinstance(found, Unreadable):
            yield MalformedRow(name, number, found.reason)
            continue
        if found is None:
            continue
        values: list[object] = []
        for field in (*texts, *others):
            value = find_field(found, field)
            problem = text_problem(value, field) if field in texts else None
            if problem is not None:
                yield MalformedRow(name, number, problem)
                break
            values.append(on_one_line(value) if isinstance(value, str) else value)
        else:
            yield number, values


def find_field(values: Mapping[str, object], field: str) -> object:
    """Return the value of a field, None if there is none. Dots separate the names of nested objects."""
    if field in values:
        return values[field]
    first, dot, rest = field.partition(".")
    below = values.get(first)
    return find_field(below, rest) if dot and isinstance(below, Mapping) else None


def text_problem(value: object, field: str) -> str | None:
    """Return why a value is not text of a corpus, None if it is."""
    if value is None:
        return f"no field {field!r}, or null"
    if not isinstance(value, str):
        return f"field {field!r} is not text"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair
        return f"field {field!r} is not Unicode text"
    return TOO_LONG.reason if size > MAX_LINE_BYTES else None


def _parse(line: str) -> Mapping[str, object] | Unreadable | None:
    if not line or line.isspace():
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return Unreadable("not JSON")
    return found if isinstance(found, dict) else Unreadable("not a JSON object")
