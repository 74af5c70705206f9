"""Lines of a stream as they arrive: many at a time from a file, one at a time from a keyboard."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from io import UnsupportedOperation
from typing import BinaryIO

from kdmt.corpus.unreadable import MAX_LINE_BYTES
from kdmt.errors import UserError

_READ_BYTES = 1 << 16
_PAUSE_SECONDS = 0.05  # time without data after which the collected lines are yielded
_GATHER_SECONDS = 0.5  # maximum time for collecting lines that arrive without a pause
# (timeout in seconds, None for no timeout) -> bytes; empty at the end of the stream, None after a timeout
_Read = Callable[[float | None], bytes | None]


def arriving_lines(source: BinaryIO, most: int) -> Iterator[list[bytes]]:
    """Yield the lines of a stream without their `\\n`, at most `most` at a time, as soon as the stream pauses.

    A line much longer than `MAX_LINE_BYTES` may be cut, but the yielded part is still longer than `MAX_LINE_BYTES`.

    Raises:
        UserError: if the stream cannot be read.
    """
    read = _reader(source)
    lines: list[bytes] = []
    rest, until, is_open = b"", 0.0, True
    while is_open:
        data = read(max(0.0, min(_PAUSE_SECONDS, until - time.monotonic())) if lines else None)
        is_open = data != b""
        *found, rest = (rest + (data or b"")).split(b"\n")
        rest = rest[: MAX_LINE_BYTES + 1]
        if not lines:
            until = time.monotonic() + _GATHER_SECONDS
        lines += found
        while len(lines) >= most:
            yield lines[:most]
            lines = lines[most:]
            until = time.monotonic() + _GATHER_SECONDS
        if lines and (not data or time.monotonic() >= until):
            yield lines
            lines = []
    if rest:
        yield [rest]


def _reader(source: BinaryIO) -> _Read:
    try:
        descriptor = source.fileno()
    except UnsupportedOperation:  # a stream in memory
        return lambda _: source.read(_READ_BYTES)

    def read(seconds: float | None) -> bytes | None:
        try:
            if not select.select([descriptor], [], [], seconds)[0]:
                return None
            return os.read(descriptor, _READ_BYTES)
        except OSError as error:  # such as a folder, or a terminal that was closed
            raise UserError(f"standard input: {error.strerror}") from None

    return read
