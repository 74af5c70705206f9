"""Standard streams: closed pipes and streams, terminals with other encodings, full disks.

Messages are printed with `print`; characters that the terminal cannot show are escaped. Data is written as UTF-8
bytes, independent of the locale.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TextIO

from kdmt.errors import UserError

_NOBODY_READS = (errno.EPIPE, errno.EIO)  # a pipe whose reader has ended; a closed terminal


class _Messages(io.FileIO):
    """Standard error that discards output if its reader has ended, so that the work continues."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno not in _NOBODY_READS:
                raise
            _point_nowhere(self.fileno())
            return super().write(data)  # type: ignore[arg-type]


def protect_streams() -> None:
    """Prepare the standard streams of this process; call it once, before any file is opened.

    Standard output escapes the characters that its encoding lacks, as standard error always does. Standard error
    discards output if its reader has ended, so that a training does not fail because of progress messages. Streams that
    the caller closed are replaced by `os.devnull`, so that a file opened later does not get their file descriptor.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    for number in closed:
        _point_nowhere(number)
    if sys.stderr is None:
        sys.stderr = _messages(2)
    elif _is_real(sys.stderr, 2):
        sys.stderr = _messages(2, encoding=sys.stderr.encoding)
    if sys.stdout is None:
        sys.stdout = _Closed(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _Closed(io.TextIOWrapper):
    """Standard output that was closed by the caller of the program."""


@contextmanager
def flushed_output() -> Iterator[None]:
    """Flush standard output when the body ends, so that a full disk is an error here.

    If the reader has ended, as `head` does, the process exits with code 1 and without a message.

    Raises:
        OSError: if standard output cannot be written.
    """
    failed = True
    try:
        yield
        failed = False
    except SystemExit as end:
        failed = bool(end.code)
        raise
    finally:
        _flush(is_first_error=not failed)


def _flush(*, is_first_error: bool) -> None:
    """Flush standard output; an error is ignored if another one already ends the program."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if _is_real(sys.stdout, 1):
            _point_nowhere(1)  # otherwise the interpreter tries again at exit
        if not is_first_error:
            return
        if error.errno == errno.EPIPE:
            sys.exit(1)
        raise


def shows_unicode() -> bool:
    """Return whether standard output can show more than ASCII and Latin letters."""
    return (sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf")


def input_bytes() -> BinaryIO:
    """Return standard input as a binary stream.

    Raises:
        UserError: if it is closed.
    """
    if sys.stdin is None:
        raise UserError("standard input is closed: there is nothing to read from")
    return sys.stdin.buffer


def output_bytes() -> BinaryIO:
    """Return standard output as a binary stream for data.

    Raises:
        UserError: if it is closed.
    """
    if isinstance(sys.stdout, _Closed):
        raise UserError("standard output is closed: there is nowhere to write to")
    sys.stdout.flush()
    return sys.stdout.buffer


@contextmanager
def output_text() -> Iterator[TextIO]:
    """Open standard output for lines of data: UTF-8 independent of the locale, lines end in a line feed.

    Raises:
        UserError: if it is closed.
    """
    text = io.TextIOWrapper(output_bytes(), encoding="utf-8", newline="\n")
    try:
        yield text
        text.flush()
    finally:
        if not text.closed:
            text.detach()


def _messages(number: int, *, encoding: str = "utf-8") -> TextIO:
    raw = _Messages(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True, write_through=True
    )


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _is_real(stream: TextIO, number: int) -> bool:
    """Return whether a stream has this file descriptor, and is not a replacement by a caller in the same process."""
    try:
        return stream.fileno() == number
    except (OSError, ValueError):  # without a file descriptor, or detached
        return False


def _point_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
