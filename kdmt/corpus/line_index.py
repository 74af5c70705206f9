"""Reading of single lines of large text files, by their index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

_READ_BYTES = 1 << 24


class IndexedLines:
    """The lines of one or more text files, in which every line ends in `\\n`, numbered from 0 over all files.

    Args:
        paths: text files.
        offsets: temporary file with the offset of each line (8 bytes per line); the caller removes it.
    """

    def __init__(self, paths: Sequence[Path], offsets: Path) -> None:
        with contextlib.ExitStack() as files:
            self._files = [files.enter_context(path.open("rb", buffering=0)) for path in paths]
            self._close = files.pop_all()
        counts = []
        with offsets.open("wb") as out:
            for path in paths:
                counts.append(0)
                for ends_M in _line_ends(path):
                    ends_M.tofile(out)
                    counts[-1] += len(ends_M)
        self._first_lines = np.cumsum([0, *counts])
        self._ends = np.memmap(offsets, dtype=np.int64, mode="r") if sum(counts) else np.zeros(0, dtype=np.int64)

    def __enter__(self) -> IndexedLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def read(self, indices: npt.NDArray[np.int64]) -> list[bytes]:
        """Return the lines with these indices, which must ascend, without their end."""
        starts = np.where(np.isin(indices, self._first_lines), 0, self._ends[np.maximum(indices - 1, 0)])
        of_file = np.searchsorted(self._first_lines, indices, side="right") - 1
        found = []
        for number, start, end in zip(of_file.tolist(), starts.tolist(), self._ends[indices].tolist(), strict=True):
            file = self._files[number]
            file.seek(start)
            found.append(file.read(end - start - 1))
        return found


def _line_ends(path: Path) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the offsets after the lines of a file."""
    start = 0
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            yield np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")) + (start + 1)
            start += len(block)
