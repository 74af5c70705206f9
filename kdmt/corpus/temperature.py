"""Sampling by temperature: p_i is proportional to n_i^(1/T) for n_i sentences of a language or direction.

T = 1 keeps the proportions of the corpora; with a larger T, they become more equal (Arivazhagan et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

_Key = TypeVar("_Key", bound=Hashable)


def temperature_shares(
    sizes: Mapping[_Key, int], temperature: float, weights: Mapping[_Key, float] | None = None
) -> dict[_Key, float]:
    """Return the shares w_i n_i^(1/T) / sum_j w_j n_j^(1/T).

    Args:
        sizes: n_i, at least 1.
        temperature: T, at least 1.
        weights: w_i (default: 1).
    """
    # relative to the largest, so that no power overflows
    largest = max(sizes.values())
    powers = {
        key: (weights or {}).get(key, 1.0) * math.exp(math.log(size / largest) / temperature)
        for key, size in sizes.items()
    }
    total = math.fsum(powers.values())
    return {key: power / total for key, power in powers.items()}


def temperature_counts(sizes: Mapping[_Key, int], temperature: float, total: int) -> dict[_Key, int]:
    """Return numbers of sentences with the sum `total`, in proportion to the shares by temperature.

    The numbers are rounded down, and the sentences that are left go to the largest remainders, the first one first.
    """
    exact = {key: share * total for key, share in temperature_shares(sizes, temperature).items()}
    counts = {key: math.floor(value) for key, value in exact.items()}
    left = total - sum(counts.values())
    for key in sorted(exact, key=lambda key: counts[key] - exact[key])[:left]:
        counts[key] += 1
    return counts
