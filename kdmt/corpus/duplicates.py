"""Search for exact duplicates in bounded memory: items are partitioned on disk, and one partition is read at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 16
_NUM_PARTITIONS = 128  # partitions of a billion items are below 200 MB; macOS allows 256 open files
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("index", "<u8")])
_ZEROS = bytes(1 << 20)
_SECOND = np.uint64(1 << 63)  # set in the index of items that count as later than all items without it


class DuplicateFinder:
    """Finds duplicates of earlier items by the 128-bit digests of the items.

    Digests must be uniformly distributed, as those of a cryptographic hash are. The probability that any two of n
    different items have the same digest is n² / 2¹²⁹: below 1e-20 for a billion items.

    Args:
        workdir: existing folder for temporary files (25 bytes per item); the caller removes it.

    Raises:
        OSError: from `add` and `find`, if the disk is full.
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

    def __len__(self) -> int:
        """Return the number of items."""
        return self._num_items

    def add(self, digests: bytes, *, second: bool = False) -> None:
        """Append items.

        Args:
            digests: concatenated digests of the items, 16 bytes each.
            second: whether these items count as later than all items without this flag, in whichever order they are
                added.
        """
        high_low_N2 = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
        records_N = np.empty(len(high_low_N2), dtype=_RECORD)
        records_N["high"], records_N["low"] = high_low_N2.T
        records_N["index"] = np.arange(self._num_items, self._num_items + len(records_N))
        if second:
            records_N["index"] |= _SECOND
        self._num_items += len(records_N)
        partition_N = records_N["high"] % _NUM_PARTITIONS
        records_N = records_N[np.argsort(partition_N, kind="stable")]
        ends = np.cumsum(np.bincount(partition_N.astype(np.intp), minlength=_NUM_PARTITIONS))
        for partition, records in zip(self._partitions, np.split(records_N, ends[:-1]), strict=True):
            partition.write(records.tobytes())

    def find(self) -> npt.NDArray[np.bool_]:
        """Return whether each item is a duplicate of an earlier one, bool [items], mapped from a file in `workdir`."""
        repeats_N = _map_zeros(self._workdir / "repeats", self._num_items, np.dtype(bool))
        for indices_M, firsts_M in self._occurrences():
            repeats_N[indices_M[indices_M != firsts_M]] = True
        return repeats_N

    def find_first(self) -> npt.NDArray[np.int64]:
        """Return the index of the first item with the same digest, int64 [items], mapped from a file in `workdir`."""
        first_N = _map_zeros(self._workdir / "firsts", self._num_items, np.dtype("<i8"))
        for indices_M, firsts_M in self._occurrences():
            first_N[indices_M] = firsts_M
        return first_N

    def _occurrences(self) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]:
        """Yield, for each partition, the indices of its items and of the first item with the digest of each."""
        for partition in self._partitions:
            partition.seek(0)
            records_M = np.frombuffer(partition.read(), dtype=_RECORD)
            if len(records_M):
                yield _first_occurrences(records_M)


def _first_occurrences(records_M: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the indices of the records in any order, and the index of the first record with the digest of each.

    The records must be in the order in which they were added.
    """
    # a stable sort keeps the order of the indices within a digest, with the `second` ones after the others
    order_M = np.lexsort((records_M["index"] & _SECOND, records_M["low"], records_M["high"]))
    sorted_M = records_M[order_M]
    is_new_M = np.ones(len(sorted_M), dtype=bool)
    is_new_M[1:] = (sorted_M["high"][1:] != sorted_M["high"][:-1]) | (sorted_M["low"][1:] != sorted_M["low"][:-1])
    starts = np.flatnonzero(is_new_M)
    index_M = sorted_M["index"] & ~_SECOND
    return index_M, index_M[starts][np.cumsum(is_new_M) - 1]


def _map_zeros(path: Path, length: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return a memory-mapped array [length] of zeros.

    The file is written in full first: with a sparse file, an assignment would kill the process if the disk is full.
    """
    if not length:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    num_bytes = length * dtype.itemsize
    with path.open("wb") as file:
        for start in range(0, num_bytes, len(_ZEROS)):
            file.write(_ZEROS[: num_bytes - start])
    return np.memmap(path, dtype=dtype, mode="r+", shape=(length,))
