"""Exact duplicates among any number of items, in bounded memory: partitions on disk, one in memory at a time."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 16
_NUM_PARTITIONS = 128  # a billion items make partitions of under 200 MB, and macOS lets 256 files be open
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("index", "<u8")])
_ZEROS = bytes(1 << 20)


class DuplicateFinder:
    """Takes the 128-bit digests of items in order, then tells which items repeat an earlier one.

    Digests must be evenly distributed, as a cryptographic hash gives them. Two different items share one with a chance
    of n² / 2¹²⁹ among n items: under 1e-20 for a billion.

    Args:
        workdir: an existing folder for its files (25 bytes an item), whose removal is the caller's work.

    Raises:
        OSError: `add` and `find`, when the disk is full.
    """

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._num_items = 0
        with contextlib.ExitStack() as files:
            self._partitions: list[BinaryIO] = [
                files.enter_context((workdir / f"digests.{number}").open("w+b")) for number in range(_NUM_PARTITIONS)
            ]
            self._files = files.pop_all()

    def __enter__(self) -> DuplicateFinder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, traceback)

    def add(self, digests: bytes) -> None:
        """Append items by their digests, 16 bytes each, back to back."""
        high_low_N2 = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
        records_N = np.empty(len(high_low_N2), dtype=_RECORD)
        records_N["high"], records_N["low"] = high_low_N2.T
        records_N["index"] = np.arange(self._num_items, self._num_items + len(records_N))
        self._num_items += len(records_N)
        partition_N = records_N["high"] % _NUM_PARTITIONS
        records_N = records_N[np.argsort(partition_N, kind="stable")]
        ends = np.cumsum(np.bincount(partition_N.astype(np.intp), minlength=_NUM_PARTITIONS))
        for partition, records in zip(self._partitions, np.split(records_N, ends[:-1]), strict=True):
            partition.write(records.tobytes())

    def find(self) -> npt.NDArray[np.bool_]:
        """Bool [items]: True where an item's digest is that of an earlier item. Mapped from a file in the workdir."""
        if not self._num_items:
            return np.zeros(0, dtype=bool)
        repeats_N = _map_zeros(self._workdir / "repeats", self._num_items)
        for partition in self._partitions:
            partition.seek(0)
            repeats_N[_later_occurrences(np.frombuffer(partition.read(), dtype=_RECORD))] = True
        return repeats_N


def _later_occurrences(records_N: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """The indices of all but the first record of each digest; records come in the order of their indices."""
    order_N = np.lexsort((records_N["low"], records_N["high"]))  # stable: the order of indices stays within a digest
    sorted_N = records_N[order_N]
    same_as_previous = (sorted_N["high"][1:] == sorted_N["high"][:-1]) & (sorted_N["low"][1:] == sorted_N["low"][:-1])
    return sorted_N["index"][1:][same_as_previous]


def _map_zeros(path: Path, length: int) -> npt.NDArray[np.bool_]:
    """A memory-mapped bool [length], all False.

    The file is written out first: in a sparse one a full disk would kill the process at the first assignment.
    """
    with path.open("wb") as file:
        for start in range(0, length, len(_ZEROS)):
            file.write(_ZEROS[: length - start])
    return np.memmap(path, dtype=bool, mode="r+", shape=(length,))
