"""Search for exact duplicates in bounded memory: items are partitioned on disk, and one partition is read at a time.

Items are numbered in the order in which they are added. Items may be added as second items: in the order in which
duplicates are kept, these come after all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdmt.corpus.partitions import Partitions

DIGEST_BYTES = 16
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])
_ZEROS = bytes(1 << 20)
_SECOND = np.uint64(1 << 63)

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.uint64]  # index of an item, with the highest bit set for second items: the order of keeping


def number_items(first: int, count: int, *, second: bool) -> Places:
    """Return the places of items that are added after `first` others."""
    places_N = np.arange(first, first + count, dtype=np.uint64)
    return places_N | _SECOND if second else places_N


def item_indices(places_N: Places) -> npt.NDArray[np.int64]:
    """Return the indices of the items at these places."""
    return (places_N & ~_SECOND).astype(np.int64)


@dataclass(frozen=True)
class Occurrences:
    """Items of one partition, sorted by digest and within a digest by place.

    Attributes:
        places_M: place of each item.
        starts_M: index in this order of the first item with the same digest.
    """

    places_M: Places
    starts_M: npt.NDArray[np.int64]

    @property
    def ranks_M(self) -> npt.NDArray[np.int64]:
        """Number of earlier items with the same digest."""
        return np.arange(len(self.starts_M)) - self.starts_M


class DuplicateFinder:
    """Finds duplicates of earlier items by the 128-bit digests of the items.

    Digests must be uniformly distributed, as those of a cryptographic hash are. The probability that any two of n
    different items have the same digest is n² / 2¹²⁹: below 1e-20 for a billion items.

    Args:
        workdir: existing folder for temporary files (25 bytes per item); the caller removes it.
        name: beginning of the names of the temporary files.

    Raises:
        OSError: from all methods, if the disk is full.
    """

    def __init__(self, workdir: Path, name: str = "digests") -> None:
        self._files = workdir / name
        self._num_items = 0
        self._partitions = Partitions(workdir, name, _RECORD)

    def __len__(self) -> int:
        """Return the number of items."""
        return self._num_items

    def add(self, digests: bytes, *, second: bool = False) -> None:
        """Append items.

        Args:
            digests: concatenated digests of the items, 16 bytes each.
            second: whether these are second items.
        """
        high_low_N2 = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
        records_N = np.empty(len(high_low_N2), dtype=_RECORD)
        records_N["high"], records_N["low"] = high_low_N2.T
        records_N["place"] = number_items(self._num_items, len(records_N), second=second)
        self._num_items += len(records_N)
        self._partitions.add(records_N, records_N["high"])

    def find(self, *, limit: int = 1, excluded_N: Flags | None = None) -> Flags:
        """Return whether at least `limit` earlier items equal each item, bool [items], mapped from a file in `workdir`.

        Args:
            excluded_N: mask of items that are ignored, as if they had not been added; None for none.
        """
        repeats_N = _map_zeros(self._files.with_suffix(".repeats"), self._num_items, np.dtype(bool))
        for found in self._occurrences(excluded_N):
            repeats_N[item_indices(found.places_M[found.ranks_M >= limit])] = True
        return repeats_N

    def find_first(self) -> npt.NDArray[np.int64]:
        """Return the index of the first item with the same digest, int64 [items], mapped from a file in `workdir`."""
        first_N = _map_zeros(self._files.with_suffix(".firsts"), self._num_items, np.dtype("<i8"))
        for found in self._occurrences(None):
            indices_M = item_indices(found.places_M)
            first_N[indices_M] = indices_M[found.starts_M]
        return first_N

    def find_groups(self, *, excluded_N: Flags | None = None) -> tuple[Places, Places]:
        """Return the places of all items that equal another one, and the first place of each one's equals."""
        members, firsts = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.uint64)]
        for found in self._occurrences(excluded_N):
            is_member_M = np.bincount(found.starts_M, minlength=len(found.starts_M))[found.starts_M] > 1
            members.append(found.places_M[is_member_M])
            firsts.append(found.places_M[found.starts_M[is_member_M]])
        return np.concatenate(members), np.concatenate(firsts)

    def _occurrences(self, excluded_N: Flags | None) -> Iterator[Occurrences]:
        for records_M in self._partitions.read():
            if excluded_N is not None:
                records_M = records_M[~excluded_N[item_indices(records_M["place"])]]
            if len(records_M):
                yield _sort_records(records_M)


def find_either(
    source: DuplicateFinder, target: DuplicateFinder, *, limit: int = 1, excluded_N: Flags | None = None
) -> Flags:
    """Return whether each pair has a source or a target that `limit` kept pairs before it have, bool [items].

    The pairs are decided in the order of their places: a pair that is not kept does not count for later ones.
    """
    sides = [side.find_groups(excluded_N=excluded_N) for side in (source, target)]
    places_M = np.union1d(sides[0][0], sides[1][0])  # all other pairs are kept
    groups = []
    for members, firsts in sides:
        group_M = np.zeros(len(places_M), dtype=np.int64)  # 0 for pairs whose line occurs once
        group_M[np.searchsorted(places_M, members)] = np.unique(firsts, return_inverse=True)[1] + 1
        groups.append(group_M)
    repeats_N = np.zeros(len(source), dtype=bool)
    repeats_N[item_indices(places_M[_decide(groups[0], groups[1], limit)])] = True
    return repeats_N


def _decide(source_M: npt.NDArray[np.int64], target_M: npt.NDArray[np.int64], limit: int) -> Flags:
    """Return whether each pair is dropped, given the group of its source and of its target; 0 for no group."""
    kept_sources, kept_targets = ([0] * (int(group_M.max(initial=0)) + 1) for group_M in (source_M, target_M))
    dropped_M = np.zeros(len(source_M), dtype=bool)
    for number, (of_source, of_target) in enumerate(zip(source_M.tolist(), target_M.tolist(), strict=True)):
        if (of_source and kept_sources[of_source] >= limit) or (of_target and kept_targets[of_target] >= limit):
            dropped_M[number] = True
        else:
            kept_sources[of_source] += 1
            kept_targets[of_target] += 1
    return dropped_M


def _sort_records(records_M: npt.NDArray[np.void]) -> Occurrences:
    """Sort the records of a partition. They must be in the order in which they were added."""
    # a stable sort keeps the order of the items within a digest, with the second ones after the others
    order_M = np.lexsort((records_M["place"] & _SECOND, records_M["low"], records_M["high"]))
    sorted_M = records_M[order_M]
    is_new_M = np.ones(len(sorted_M), dtype=bool)
    is_new_M[1:] = (sorted_M["high"][1:] != sorted_M["high"][:-1]) | (sorted_M["low"][1:] != sorted_M["low"][:-1])
    return Occurrences(sorted_M["place"], np.flatnonzero(is_new_M)[np.cumsum(is_new_M) - 1])


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
