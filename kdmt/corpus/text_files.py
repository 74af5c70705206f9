"""Reading of text files from elsewhere by line: plain, compressed or in a zip archive, recognised by their content.

A file that is not UTF-8 text is refused (`kdmt.corpus.formats`). Lines have a length limit while they are read, so that
no file needs more memory than a line of `MAX_LINE_BYTES`.
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
_MANY_RETURNS = 10  # carriage returns at the start of a file without `\n`


@dataclass
class Malformed:
    """Number of rows of a corpus that could not be read, and the line numbers of the first rows of each kind."""

    counts: dict[str, int] = field(default_factory=dict)
    first_lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str, line: int) -> None:
        """Count a row.

        Args:
            kind: kind of error.
            name: name of the file.
            line: line number, from 1.
        """
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.first_lines.setdefault(kind, [])
        if len(shown) < _NUM_SHOWN:
            shown.append(f"{name} line {line}")

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, dict[str, object]]:
        """Return the counts as JSON values: kind -> count and first lines."""
        return {kind: {"rows": count, "first": self.first_lines[kind]} for kind, count in self.counts.items()}


@dataclass(frozen=True)
class Unreadable:
    """Placeholder for a line that cannot be read.

    Attributes:
        reason: reason why the line cannot be read.
    """

    reason: str


TOO_LONG = Unreadable(f"longer than {MAX_LINE_BYTES:,} bytes")
NOT_UTF8 = Unreadable("not UTF-8")


def open_lines(path: Path, *, member: str | None = None, name: str | None = None) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 text file, without their ends.

    Only `\n` ends a line, and carriage returns before it are part of the line end. `str.splitlines` would also split at
    U+2028, U+0085 and other characters that occur inside sentences. A byte order mark at the start is removed.

    Args:
        path: text file, compressed with gzip or not, or zip archive.
        member: file to read inside the zip archive.
        name: name of the file in messages.

    Raises:
        UserError: if the file or member does not exist, the archive is damaged, the format is not text, lines end in
            `\r` only, or a line is not UTF-8 or too long (the message has the line number).
    """
    name = name or (f"{path}:{member}" if member else str(path))
    for number, line in enumerate(open_bounded_lines(path, member=member, name=name), start=1):
        if isinstance(line, Unreadable):
            raise UserError(f"{name} line {number}: {line.reason}")
        yield line


def open_bounded_lines(path: Path, *, member: str | None, name: str) -> Iterator[str | Unreadable]:
    """Yield lines as `open_lines` does, with an `Unreadable` instead of each line that is too long or not UTF-8."""
    number = num_returns = 0
    try:
        with ExitStack() as opened:
            file = _open_bytes(path, member, name, opened)
            # all checks are in one loop for speed, because a corpus may have hundreds of millions of lines
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
        if error.errno is None:  # raised by gzip or bzip2
            raise UserError(f"{name}: truncated or damaged after line {number}: {error}") from None
        raise UserError(f"{name}: {error.strerror}") from None


def _decoded(text: bytes) -> str | Unreadable:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return NOT_UTF8


def bounded_lines(file: IO[bytes]) -> Iterator[bytes | Unreadable]:
    r"""Yield the lines of a stream with their `\n`, and `TOO_LONG` instead of each line that is too long."""
    for line in iter(functools.partial(file.readline, _LIMIT), b""):
        is_short = len(line) <= MAX_LINE_BYTES or len(line.rstrip(b"\r\n")) <= MAX_LINE_BYTES
        yield line if is_short else _skip_rest(file, line)


def _skip_rest(file: IO[bytes], line: bytes) -> Unreadable:
    """Skip the rest of a line that is too long, and return `TOO_LONG`."""
    while line and not line.endswith(b"\n"):
        line = file.readline(_BLOCK_BYTES)
    return TOO_LONG


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


class _Rewound(io.RawIOBase):
    """A stream whose first bytes have already been read."""

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
    """Open a file or a member of an archive, and decompress gzip. Refuse formats other than text."""
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
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or a compression that Python does not have
        raise UserError(f"{name}: {error}") from None


def _read_head(file: IO[bytes]) -> bytes:
    """Return the first `HEAD_BYTES`, also of a pipe, which returns fewer bytes at a time."""
    head = b""
    while len(head) < HEAD_BYTES and (more := file.read(HEAD_BYTES - len(head))):
        head += more
    return head
