"""Hashes of many numbers at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def mix(values: Hashes) -> Hashes:
    """Return hashes of 64-bit numbers: the finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = values ^ (values >> np.uint64(shift))
        values *= np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def hash_windows(values: npt.NDArray[np.unsignedinteger], size: int) -> Hashes:
    """Return the hash of each window of `size` consecutive numbers."""
    hashes = np.zeros(max(len(values) - size + 1, 0), dtype=np.uint64)
    for offset in range(size):
        hashes *= MULTIPLIER
        hashes += values[offset : offset + len(hashes)]
    return mix(hashes)
