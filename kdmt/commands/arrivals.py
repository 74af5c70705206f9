"""Lines of a stream as they arrive: many together from a file, one at a time from a keyboard."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from io import UnsupportedOperation
from typing import BinaryIO

from kdmt.corpus.text_files import MAX_LINE_BYTES
from kdmt.errors import UserError

_READ_BYTES = 1 << 16
_PAUSE_SECONDS = 0.05  # without a byte: the lines so far are yielded
_GATHER_SECONDS = 0.5  # longest time for which lines are gathered that arrive without a pause
# (seconds to wait, None for ever) -> bytes; empty at the end, None if none have arrived in time
_Read = Callable[[float | None], bytes | None]


def arriving_lines(source: BinaryIO, most: int) -> Iterator[list[bytes]]:
    """Yield the lines of a stream without their `\\n`, at most `most` together, as soon as the stream pauses.

    Of a line longer than `MAX_LINE_BYTES` only the beginning is yielded, which is longer than that too.

    Raises:
        UserError: the stream cannot be read.
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
        except OSError as error:  # a folder, a terminal that is gone
            raise UserError(f"standard input: {error.strerror}") from None

    return read
