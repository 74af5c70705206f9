"""Reading of text files from elsewhere by line: plain, compressed or in an archive, recognised by their content.

The sentences of SGM, IWSLT's XML and WMT XML are read as lines (`kdmt.corpus.segments`). A file that is not UTF-8 text
is refused (`kdmt.corpus.formats`). Lines have a length limit while they are read, so that no file needs more memory
than a line of `MAX_LINE_BYTES`.
"""

from __future__ import annotations

import codecs
import functools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from kdmt.corpus.archives import BLOCK_BYTES, Content, Position, naming_damage, open_content
from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.corpus.segments import Place, has_segments, is_tagged, read_segments, untagged
from kdmt.corpus.unreadable import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG, Unreadable
from kdmt.errors import UserError

_LIMIT = MAX_LINE_BYTES + len(b"\r\n")
_NUM_SHOWN = 5
_MANY_RETURNS = 10  # carriage returns at the start of a file without `\n`


@dataclass
class Malformed:
    """Number of rows of a corpus that could not be read, and the line numbers of the first rows of each kind."""

    counts: dict[str, int] = field(default_factory=dict)
    first_lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str, line: int, unit: str = "line") -> None:
        """Count a row.

        Args:
            kind: kind of error.
            name: name of the file.
            line: line number, from 1.
            unit: what is counted by the number.
        """
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.first_lines.setdefault(kind, [])
        if len(shown) < _NUM_SHOWN:
            shown.append(f"{name} {unit} {line}")

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, dict[str, object]]:
        """Return the counts as JSON values: kind -> count and first lines."""
        return {kind: {"rows": count, "first": self.first_lines[kind]} for kind, count in self.counts.items()}


def open_lines(path: Path, *, member: str | None = None, name: str | None = None) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 text file, without their ends.

    Only `\n` ends a line, and carriage returns before it are part of the line end. `str.splitlines` would also split at
    U+2028, U+0085 and other characters that occur inside sentences. A byte order mark at the start is removed.

    Args:
        path: text file, compressed or not, or archive.
        member: file to read inside the archive.
        name: name of the file in messages.

    Raises:
        UserError: if the file or member does not exist, the archive is damaged, the format is not text, lines end in
            `\r` only, or a line is not UTF-8 or too long (the message has the line number).
    """
    name = name or (f"{path}:{member}" if member else str(path))
    place = Place()
    for number, line in enumerate(open_bounded_lines(path, member=member, name=name, place=place), start=1):
        if isinstance(line, Unreadable):
            unit, number_in_file = place.locate(number)
            raise UserError(f"{name} {unit} {number_in_file}: {line.reason}")
        yield line


def open_bounded_lines(
    path: Path, *, member: str | None, name: str, part: str | None = None, place: Place | None = None
) -> Iterator[str | Unreadable]:
    """Yield lines as `open_lines` does, with an `Unreadable` instead of each line that is too long or not UTF-8.

    Args:
        part: part of a file with several parts, see `read_segments`.
        place: receives the place of each sentence of such a file, or of tagged text.
    """
    position, place = Position(), place or Place()
    with naming_damage(name, position), ExitStack() as opened:
        content = open_content(path, member, name, opened)
        if part is not None and not has_segments(content.head):
            raise UserError(f"{name}: 'part' is given, but the file is not SGM or XML with <seg>")
        if has_segments(content.head):
            position.unit = "sentence"
            for line in read_segments(content.file, name, part, place):
                position.number += 1
                yield line
        elif is_tagged(content.head):
            yield from untagged(bounded_text_lines(content, name, position, checked=False), place)
        else:
            yield from bounded_text_lines(content, name, position)


def bounded_text_lines(
    content: Content, name: str, position: Position, *, checked: bool = True
) -> Iterator[str | Unreadable]:
    """Yield the lines of an open file, with an `Unreadable` instead of each that is too long or not UTF-8.

    Args:
        name: name of the file for messages.
        position: receives the number of lines at the end, and at an error.
        checked: whether formats other than plain text are refused.
    """
    if checked:
        refuse_other_formats(content.head, name)
    _refuse_one_line_of_returns(content.head, name)
    file = content.file
    if content.head.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    number = num_returns = 0
    try:
        # all checks are in one loop for speed, because a corpus may have hundreds of millions of lines
        for line in iter(functools.partial(file.readline, _LIMIT), b""):
            number += 1
            text = line.rstrip(b"\r\n")
            if b"\r" in text:
                num_returns += text.count(b"\r")
            yield _decoded(text) if len(line) <= MAX_LINE_BYTES or _is_short(file, line) else TOO_LONG
    finally:
        position.number = number
    if num_returns and num_returns >= number:
        raise _of_returns(name, num_returns)


def _decoded(text: bytes) -> str | Unreadable:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return NOT_UTF8


def _is_short(file: IO[bytes], line: bytes) -> bool:
    """Skip the rest of a line, and return whether the line is at most `MAX_LINE_BYTES` long without its end.

    Args:
        line: first bytes of the line.
    """
    is_short = len(line.rstrip(b"\r\n")) <= MAX_LINE_BYTES
    while line and not line.endswith(b"\n"):
        line = file.readline(BLOCK_BYTES)
        is_short = is_short and not line.rstrip(b"\r\n")  # more carriage returns belong to the end
    return is_short


def _refuse_one_line_of_returns(head: bytes, name: str) -> None:
    r"""Refuse a file with `\r` as its only line end, before the whole file is read as one line."""
    text = head.rstrip(b"\r\n")
    num_returns = text.count(b"\r")
    is_whole = len(head) < HEAD_BYTES
    if num_returns and b"\n" not in text and (is_whole or num_returns >= _MANY_RETURNS):
        raise _of_returns(name, num_returns)


def _of_returns(name: str, num_returns: int) -> UserError:
    return UserError(
        f"{name}: {num_returns:,} carriage returns inside its lines, which seem to end in '\\r' alone: "
        f"convert them, for example with: tr '\\r' '\\n'"
    )
