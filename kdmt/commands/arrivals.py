"""Lines and words of a stream as they arrive: many at a time from a file, one at a time from a keyboard."""

from __future__ import annotations

import os
import re
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
_SEPARATOR = re.compile(rb"([ \t\r\v\f\n])")
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


def arriving_words(source: BinaryIO) -> Iterator[bytes | None]:
    """Yield the words of a stream as soon as the space after them arrives, and None at the end of each line.

    Words are separated by spaces and other ASCII whitespace. A last line without a line break ends with the stream.

    Raises:
        UserError: if the stream cannot be read, or a word is longer than `MAX_LINE_BYTES`.
    """
    read = _reader(source)
    rest, is_in_line = b"", False
    while data := read(None):
        *parts, rest = _SEPARATOR.split(rest + data)
        if len(rest) > MAX_LINE_BYTES:
            raise UserError(f"standard input: a word is longer than {MAX_LINE_BYTES:,} bytes")
        for word, separator in zip(parts[::2], parts[1::2], strict=True):
            if word:
                yield word
                is_in_line = True
            if separator == b"\n":
                yield None
                is_in_line = False
    if rest:
        yield rest
    if rest or is_in_line:
        yield None
