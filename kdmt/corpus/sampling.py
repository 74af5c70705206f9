"""Choice of a part of a corpus, and sizes of corpora in a mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdmt.corpus.hashing import MULTIPLIER, mix

_STRATA_AT_ONCE = 1_000_000


def choose_evenly(num_pairs: int, num_chosen: int, *, seed: int, stream: int) -> npt.NDArray[np.bool_]:
    """Return a mask [num_pairs] of `num_chosen` pairs, which are spread evenly: stratified sampling.

    The pairs are divided into `num_chosen` strata of neighbours with the same size, plus or minus one, and one pair of
    each is drawn by a hash.

    Args:
        seed: seed of the draws.
        stream: number of the choice: choices with different numbers are independent.
    """
    chosen_N = np.zeros(num_pairs, dtype=bool)
    key = mix(np.array([seed], dtype=np.uint64) * MULTIPLIER + np.uint64(stream))
    for start in range(0, num_chosen, _STRATA_AT_ONCE):
        strata = np.arange(start, min(start + _STRATA_AT_ONCE, num_chosen) + 1)
        bounds = strata * num_pairs // num_chosen
        # a draw of 32 bits times the size of the stratum is an exact integer
        draws = mix(key + strata[:-1].astype(np.uint64) * MULTIPLIER) >> np.uint64(32)
        offsets = (draws * np.diff(bounds).astype(np.uint64)) >> np.uint64(32)
        chosen_N[bounds[:-1] + offsets.astype(np.int64)] = True
    return chosen_N


def mixture_sizes(sizes: Sequence[int], temperature: float, total: int) -> list[int]:
    """Return the number of pairs of each corpus in a mixture: proportional to its size to the power of 1/temperature.

    The numbers are rounded so that their sum is `total` (largest remainders), and no corpus with pairs gets none.

    Args:
        sizes: number of pairs of each corpus.
        temperature: 1 for the proportions of the corpora; the larger, the more equal they become.
        total: number of pairs of the mixture.
    """
    weights = [size ** (1.0 / temperature) if size else 0.0 for size in sizes]
    exact = [total * weight / math.fsum(weights) if weight else 0.0 for weight in weights]
    found = [max(int(share), 1) if size else 0 for share, size in zip(exact, sizes, strict=True)]
    rounded_down = [number for number, share in enumerate(exact) if share >= 1.0]
    by_remainder = sorted(rounded_down, key=lambda number: (int(exact[number]) - exact[number], number))
    for number in by_remainder[: max(total - sum(found), 0)]:
        found[number] += 1
    return found
