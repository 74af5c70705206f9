"""Text files from elsewhere, line by line: plain, compressed or in a zip archive, told apart by their content.

A file that is no UTF-8 text is refused (`kdmt.corpus.formats`), and a line has a length limit while it is read, so that
no file takes more memory than a line of `MAX_LINE_BYTES`.
"""

from __future__ import annotations

import codecs
import functools
import gzip
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from kdmt.corpus.formats import GZIP, HEAD_BYTES, recognize, recognize_markup, refuse_other_formats
from kdmt.errors import UserError

MAX_LINE_BYTES = 1_000_000  # without the end of the line
_LIMIT = MAX_LINE_BYTES + len(b"\r\n")
_BLOCK_BYTES = 1 << 20
_NUM_SHOWN = 5
_MANY_RETURNS = 10  # in the head of a file without an end of a line


@dataclass
class Malformed:
    """The rows of a corpus that could not be read: how many, and the first ones of each kind with their lines."""

    counts: dict[str, int] = field(default_factory=dict)
    first_lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str, line: int) -> None:
        """Count a row.

        Args:
            kind: what is wrong with it.
            name: of its file.
            line: from 1.
        """
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.first_lines.setdefault(kind, [])
        if len(shown) < _NUM_SHOWN:
            shown.append(f"{name} line {line}")

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, dict[str, object]]:
        """Plain JSON values: kind -> count and first lines."""
        return {kind: {"rows": count, "first": self.first_lines[kind]} for kind, count in self.counts.items()}


@dataclass(frozen=True)
class Unreadable:
    """A line that cannot be read, in its place.

    Attributes:
        reason: what is wrong with it.
    """

    reason: str


TOO_LONG = Unreadable(f"longer than {MAX_LINE_BYTES:,} bytes")
NOT_UTF8 = Unreadable("not UTF-8")


def open_lines(path: Path, *, member: str | None = None, name: str | None = None) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 text file, without their ends.

    Only `\n` ends a line, carriage returns before it belonging to the end: `str.splitlines` would also cut at U+2028,
    U+0085 and others that occur inside sentences. A byte order mark at the start is dropped.

    Args:
        path: a text file, compressed with gzip or not, or a zip archive.
        member: the file to read inside the zip archive.
        name: what to call the file in messages.

    Raises:
        UserError: no such file or member, a broken archive, another format than text, lines that end in `\r` alone, or
            a line that is not UTF-8 or too long (with its number).
    """
    name = name or (f"{path}:{member}" if member else str(path))
    for number, line in enumerate(open_bounded_lines(path, member=member, name=name), start=1):
        if isinstance(line, Unreadable):
            raise UserError(f"{name} line {number}: {line.reason}")
        yield line


def open_bounded_lines(path: Path, *, member: str | None, name: str) -> Iterator[str | Unreadable]:
    """Yield lines as `open_lines` does, with an `Unreadable` in the place of each that is too long or not UTF-8."""
    number = num_returns = 0
    try:
        with ExitStack() as opened:
            file = _open_bytes(path, member, name, opened)
            # one loop with all checks: a corpus has hundreds of millions of lines
            for line in iter(functools.partial(file.readline, _LIMIT), b""):
                number += 1
                text = line.rstrip(b"\r\n")
                if b"\r" in text:
                    num_returns += text.count(b"\r")
                yield _skip_rest(file, line) if len(text) > MAX_LINE_BYTES else _decoded(text)
            if num_returns and num_returns >= number:
                raise _of_returns(name, num_returns)
    except (EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, struct.error) as error:
        raise UserError(f"{name}: truncated or damaged after line {number}: {error}") from None
    except OSError as error:
        if error.errno is None:  # gzip's and bzip2's own
            raise UserError(f"{name}: truncated or damaged after line {number}: {error}") from None
        raise UserError(f"{name}: {error.strerror}") from None


def _decoded(text: bytes) -> str | Unreadable:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return NOT_UTF8


def bounded_lines(file: IO[bytes]) -> Iterator[bytes | Unreadable]:
    r"""Yield the lines of a stream with their `\n`; of one that is too long nothing is kept."""
    for line in iter(functools.partial(file.readline, _LIMIT), b""):
        is_short = len(line) <= MAX_LINE_BYTES or len(line.rstrip(b"\r\n")) <= MAX_LINE_BYTES
        yield line if is_short else _skip_rest(file, line)


def _skip_rest(file: IO[bytes], line: bytes) -> Unreadable:
    """Read the rest of a line that is too long."""
    while line and not line.endswith(b"\n"):
        line = file.readline(_BLOCK_BYTES)
    return TOO_LONG


def _refuse_one_line_of_returns(head: bytes, name: str) -> None:
    r"""Refuse a file of `\r` alone before what seems to be its one line is read."""
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


class _Rewound(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head, self._file = head, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._file.read(len(buffer))
        self._head = self._head[len(data) :] if self._head else b""
        buffer[: len(data)] = data
        return len(data)


def _rewound(head: bytes, file: IO[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Rewound(head, file), _BLOCK_BYTES)


def _open_bytes(path: Path, member: str | None, name: str, opened: ExitStack) -> io.BufferedReader:
    """Open a file or a member of an archive, decompressed where it is gzip; refuse what is no text."""
    file: IO[bytes] = opened.enter_context(path.open("rb"))
    if member is not None:
        file = _open_member(file, member, name, opened)
    head = _read_head(file)
    if head.startswith(GZIP):
        file = cast(IO[bytes], opened.enter_context(gzip.GzipFile(fileobj=_rewound(head, file))))
        head = _read_head(file)
    elif (member or path.name).endswith(".gz") and head:
        what, remedy = recognize(head) or recognize_markup(head) or ("plain text", "rename it")
        raise UserError(f"{name}: truncated or damaged after line 0: not gzip but {what}: {remedy}")
    refuse_other_formats(head, name)
    _refuse_one_line_of_returns(head, name)
    return _rewound(head.removeprefix(codecs.BOM_UTF8), file)


def _open_member(file: IO[bytes], member: str, name: str, opened: ExitStack) -> IO[bytes]:
    archive = opened.enter_context(zipfile.ZipFile(file))
    if member not in archive.namelist():
        raise UserError(f"{name}: no such member; the archive holds {', '.join(archive.namelist()[:10])}")
    try:
        return opened.enter_context(archive.open(member))
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or a compression that Python lacks
        raise UserError(f"{name}: {error}") from None


def _read_head(file: IO[bytes]) -> bytes:
    """The first `HEAD_BYTES`, of a pipe too, which gives fewer at a time."""
    head = b""
    while len(head) < HEAD_BYTES and (more := file.read(HEAD_BYTES - len(head))):
        head += more
    return head
