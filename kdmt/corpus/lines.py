"""Text files written by kdmt: UTF-8, and only `\\n` ends a line.

Other files may have byte order marks, carriage returns and invalid bytes; `text_files.open_lines` reads them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from kdmt.errors import UserError
from kdmt.files import naming

_READ_BYTES = 1 << 20


def iterate_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file without their end."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def read_lines(path: Path) -> list[str]:
    """Return all lines of a small file."""
    return list(iterate_lines(path))


def spread_lines(path: Path, limit: int) -> list[str]:
    """Return at most `limit` lines that are spread evenly over a file, or all lines if there are no more than that.

    From a large file, only the lines that follow evenly spaced byte offsets are read.
    """
    size = path.stat().st_size
    if size <= _READ_BYTES:
        lines = read_lines(path)
        count = min(limit, len(lines))
        return [lines[number * len(lines) // count] for number in range(count)]
    found: dict[int, str] = {}  # by byte offset, because a line may be longer than the spacing
    with path.open("rb") as file:
        for number in range(limit):
            start = number * size // limit
            file.seek(max(start - 1, 0))
            if start:
                file.readline()  # skip the rest of a line; only its end if a line begins at `start`
            start = file.tell()
            if start not in found and (line := file.readline()):
                found[start] = line.decode().removesuffix("\n")
    return list(found.values())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a file and end each with `\\n`."""
    with naming(path), path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class Piece:
    """A range of lines of a file, which can be read later, for example in another process."""

    path: Path
    start: int  # byte
    size: int  # bytes
    count: int  # lines

    def read(self) -> list[str]:
        """Return the lines without their end.

        Raises:
            UserError: if the number of lines has changed.
        """
        with self.path.open("rb") as file:
            text = os.pread(file.fileno(), self.size, self.start).decode()
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        if len(lines) != self.count:
            raise UserError(
                f"{self.path}: {len(lines)} lines where {self.count} were: was it changed while it was read?"
            )
        return lines


def cut_lines(paths: Sequence[Path], num_lines: int) -> Iterator[list[Piece]]:
    """Cut files with the same number of lines into pieces of `num_lines`, and yield lists with one piece of each file.

    Raises:
        UserError: if one file has more lines than another.
    """
    for pieces in zip_longest(*(_pieces(path, num_lines) for path in paths)):
        if len({None if piece is None else piece.count for piece in pieces}) > 1:
            raise UserError(f"{', '.join(map(str, paths))}: files of different length")
        yield list(pieces)


def _pieces(path: Path, num_lines: int) -> Iterator[Piece]:
    start = place = lines = 0
    last = b"\n"
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n"))
            missing = num_lines - lines
            while len(ends) >= missing:
                stop = place + int(ends[missing - 1]) + 1
                yield Piece(path, start, stop - start, num_lines)
                start, ends, lines, missing = stop, ends[missing:], 0, num_lines
            lines += len(ends)
            place += len(data)
            last = data[-1:]
    lines += last != b"\n"
    if lines:
        yield Piece(path, start, place - start, lines)
