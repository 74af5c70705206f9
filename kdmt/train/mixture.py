"""Epochs of a mixture of training sets, in which each set has a share of the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

_STREAM = 2  # number in the seeds of these permutations; `epoch_order` has 1


class Mixture:
    """Draws the pairs of each epoch from several training sets.

    An epoch has every pair of the first set once, and of the others as many pairs as their shares require. The pairs of
    a set are taken from a random permutation of the set; after its last pair follows another permutation. So a large
    set is distributed over several epochs, a small one is repeated within an epoch, and no pair is used again before
    all others of its set have been used. Fractions of a pair are carried over to the next epoch.

    The pairs of an epoch depend on (seed, epoch, order) alone, and not on the epochs before.

    Args:
        sets: indices of the pairs of each set, int64 [pairs of the set]; none is empty.
        shares: share of each set in an epoch, greater than 0.
        seed: seed of the permutations.
        total: number of pairs of an epoch (default: that with which it has every pair of the first set once).
    """

    def __init__(
        self, sets: Sequence[NDArray[np.int64]], shares: Sequence[float], *, seed: int, total: int | None = None
    ) -> None:
        self.sets, self.seed = list(sets), seed
        exact = [Fraction(str(share)) for share in shares]  # the decimal numbers of the settings
        whole = len(self.sets[0]) / exact[0] if total is None else total / sum(exact)
        self.sizes = [share * whole for share in exact]
        # (number of the permutation, permutation) of each set: a large set needs the same one in several epochs
        self._latest: dict[int, tuple[tuple[int, int], NDArray[np.int64]]] = {}

    def pairs(self, epoch: int, *, order: int = 1) -> NDArray[np.int64]:
        """Return the indices of the pairs of an epoch, int64 [pairs of the epoch].

        Args:
            epoch: number of the epoch, from 1.
            order: number of the sequence of epochs, see `epoch_order`.
        """
        parts = []
        for number, size in enumerate(self.sizes):
            start, stop = floor((epoch - 1) * size), floor(epoch * size)
            parts += self._stretch(number, start, stop, order)
        return np.concatenate(parts)

    def _stretch(self, number: int, start: int, stop: int, order: int) -> list[NDArray[np.int64]]:
        """Return the pairs from `start` to `stop` in the sequence of permutations of a set, in pieces."""
        length, pieces = len(self.sets[number]), []
        while start < stop:
            times, first = divmod(start, length)
            last = min(first + stop - start, length)
            pieces.append(self._permutation(number, times, order)[first:last])
            start += last - first
        return pieces

    def _permutation(self, number: int, times: int, order: int) -> NDArray[np.int64]:
        key = (times, order)
        latest = self._latest.get(number)
        if latest is None or latest[0] != key:
            generator = np.random.default_rng([self.seed, times, _STREAM, number, order])
            latest = self._latest[number] = (key, generator.permutation(self.sets[number]))
        return latest[1]


def earlier_occurrences(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each index the number of its earlier occurrences, int64 [pairs]."""
    order = np.argsort(pairs, kind="stable")
    ordered = pairs[order]
    is_first = np.append(True, ordered[1:] != ordered[:-1])
    first = np.flatnonzero(is_first)
    counts = np.empty_like(pairs)
    counts[order] = np.arange(len(pairs)) - np.repeat(first, np.diff(first, append=len(pairs)))
    return counts
