"""Choice of lines that cover the n-grams of a corpus, without a model.

The gain of a line is the sum of the values of its distinct n-grams of 1 to `order` words, divided by its number of
words. The value of an n-gram is the number of lines that have it (Eck, Vogel, Waibel, "Low Cost Portability for
Statistical Machine Translation based on N-gram Frequency and TF-IDF", 2005), multiplied by `decay` for each chosen line
that has it (Bicici and Yuret, "Instance Selection for Machine Translation using Feature Decay Algorithms", 2011). The
line with the largest gain is chosen again and again.

Gains only fall, so that a line whose gain is still the largest after it was computed again need not be compared with
the others (Minoux 1978). N-grams are hashed to a table of fixed size, and the n-grams of each line are kept in a file.

Shapes: N lines, U words of a chunk of lines, M n-grams of a chunk of lines, V entries of the table.
"""

from __future__ import annotations

import heapq
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.hashing import hash_windows
from kdmt.corpus.ngram_overlap import hash_units

TABLE_BITS = 26  # the table takes 4 bytes for each of 2 ** TABLE_BITS entries
_CHUNK_LINES = 10_000

Slots = NDArray[np.uint32]  # entries of the table


@dataclass(frozen=True)
class NgramGain:
    """Definition of the gain of a line.

    Attributes:
        order: maximum number of words of an n-gram.
        decay: factor of the value of an n-gram for each chosen line that has it, from 0 to 1.
        by_character: whether characters take the place of words, for text without spaces.
        table_bits: logarithm of the number of entries of the table.
    """

    order: int = 3
    decay: float = 0.5
    by_character: bool = False
    table_bits: int = TABLE_BITS


def choose_diverse(
    lines: Iterable[str], count: int, gain: NgramGain, slots_file: BinaryIO, *, like: Iterable[str] | None = None
) -> tuple[NDArray[np.int64], int]:
    """Return the indices of at most `count` chosen lines in ascending order, and the number of lines.

    Lines without words are never chosen.

    Args:
        lines: lines to choose from.
        slots_file: empty file, open for reading and writing, for the n-grams of each line; 4 bytes for each.
        like: lines whose n-grams are to be covered (default: `lines`).
    """
    value_V = np.zeros(1 << gain.table_bits, dtype=np.float32)
    sizes, lengths = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for chunk in _chunks(lines):
        slots_M, sizes_N, lengths_N = _line_slots(chunk, gain)
        slots_file.write(slots_M.tobytes())
        sizes.append(sizes_N)
        lengths.append(lengths_N)
        if like is None:
            _count(value_V, slots_M)
    if like is not None:
        for chunk in _chunks(like):
            _count(value_V, _line_slots(chunk, gain)[0])
    slots_file.flush()
    ends_N, lengths_N = np.cumsum(np.concatenate(sizes)), np.concatenate(lengths)
    if not len(ends_N) or not ends_N[-1]:
        return np.zeros(0, dtype=np.int64), len(ends_N)
    with mmap.mmap(slots_file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        slots = np.frombuffer(mapped, dtype=np.uint32)
        chosen = _choose(slots, ends_N, lengths_N, value_V, count, gain.decay)
        del slots  # before the file is closed
    return np.sort(np.array(chosen, dtype=np.int64)), len(ends_N)


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(lines)
    while chunk := list(islice(rest, _CHUNK_LINES)):
        yield chunk


def _count(value_V: NDArray[np.float32], slots_M: Slots) -> None:
    found, counts = np.unique(slots_M, return_counts=True)
    value_V[found] += counts.astype(np.float32)


def _line_slots(lines: list[str], gain: NgramGain) -> tuple[Slots, NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct entries of each line [M], their number [N], and the number of words of each line [N]."""
    units_U, line_U = hash_units("\n".join(lines), by_character=gain.by_character)
    codes = []
    for size in range(1, gain.order + 1):
        hashes = hash_windows(units_U, size)
        starts = line_U[: len(hashes)]
        inside = starts == line_U[size - 1 :]
        slots = hashes[inside] >> np.uint64(64 - gain.table_bits)
        codes.append((starts[inside].astype(np.uint64) << np.uint64(gain.table_bits)) | slots)
    codes_M = np.unique(np.concatenate(codes))
    line_M = (codes_M >> np.uint64(gain.table_bits)).astype(np.int64)
    slots_M = (codes_M & np.uint64((1 << gain.table_bits) - 1)).astype(np.uint32)
    return slots_M, np.bincount(line_M, minlength=len(lines)), np.bincount(line_U, minlength=len(lines))


def _choose(
    slots: Slots,
    ends_N: NDArray[np.int64],
    lengths_N: NDArray[np.int64],
    value_V: NDArray[np.float32],
    count: int,
    decay: float,
) -> list[int]:
    """Choose lines greedily; of several lines with the same gain, the first one is chosen."""
    starts_N = np.concatenate([[0], ends_N[:-1]])
    gains_N = _first_gains(slots, starts_N, ends_N, lengths_N, value_V)
    order = np.argsort(-gains_N, kind="stable")
    order = order[lengths_N[order] > 0]
    fresh = ((-float(gains_N[i]), int(i)) for i in order)  # lines whose gain was not computed again
    following = next(fresh, None)
    again: list[tuple[float, int]] = []
    chosen: list[int] = []
    while len(chosen) < count and (again or following is not None):
        if following is not None and (not again or following < again[0]):
            i, following = following[1], next(fresh, None)
        else:
            i = heapq.heappop(again)[1]
        own = slots[starts_N[i] : ends_N[i]]
        values = value_V[own]
        entry = (-float(values.sum(dtype=np.float64) / lengths_N[i]), i)
        if (again and again[0] < entry) or (following is not None and following < entry):
            heapq.heappush(again, entry)
            continue
        chosen.append(i)
        value_V[own] = values * np.float32(decay)
    return chosen


def _first_gains(
    slots: Slots,
    starts_N: NDArray[np.int64],
    ends_N: NDArray[np.int64],
    lengths_N: NDArray[np.int64],
    value_V: NDArray[np.float32],
) -> NDArray[np.float64]:
    gains_N = np.zeros(len(ends_N))
    for first in range(0, len(ends_N), _CHUNK_LINES):
        part = slice(first, first + _CHUNK_LINES)
        known = np.flatnonzero(ends_N[part] > starts_N[part]) + first
        if len(known):
            low = starts_N[known[0]]
            values = value_V[slots[low : ends_N[known[-1]]]].astype(np.float64)
            gains_N[known] = np.add.reduceat(values, starts_N[known] - low) / lengths_N[known]
    return gains_N
