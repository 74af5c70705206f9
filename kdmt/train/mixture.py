"""Epochs of a mixture of training sets, in which each set has a share of the pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    The pairs of an epoch depend on (seed, epoch, order) and the shares alone; no epoch before has to be drawn.

    Args:
        sets: indices of the pairs of each set, int64 [pairs of the set]; none is empty.
        shares: share of each set in an epoch, greater than 0; or a function of the number of the epoch, from 1.
        seed: seed of the permutations.
        total: number of pairs of an epoch (default: that with which it has every pair of the first set once).
    """

    def __init__(
        self,
        sets: Sequence[NDArray[np.int64]],
        shares: Sequence[float] | Callable[[int], Sequence[float]],
        *,
        seed: int,
        total: int | None = None,
    ) -> None:
        self.sets, self.seed, self.total = list(sets), seed, total
        self._shares = shares if callable(shares) else lambda _: shares
        # number of pairs of each set in all epochs before an epoch, from epoch 1 on
        self._before: list[list[Fraction]] = [[Fraction(0)] * len(self.sets)]
        # (number of the permutation, permutation) of each set: a large set needs the same one in several epochs
        self._latest: dict[int, tuple[tuple[int, int], NDArray[np.int64]]] = {}

    def pairs(self, epoch: int, *, order: int = 1) -> NDArray[np.int64]:
        """Return the indices of the pairs of an epoch, int64 [pairs of the epoch].

        Args:
            epoch: number of the epoch, from 1.
            order: number of the sequence of epochs, see `epoch_order`.
        """
        parts = []
        for number, (before, after) in enumerate(zip(self._up_to(epoch - 1), self._up_to(epoch), strict=True)):
            parts += self._stretch(number, floor(before), floor(after), order)
        return np.concatenate(parts)

    def sizes(self, epoch: int) -> list[Fraction]:
        """Return the number of pairs of each set in an epoch, from 1."""
        exact = [Fraction(str(share)) for share in self._shares(epoch)]  # the decimal numbers of the settings
        whole = len(self.sets[0]) / exact[0] if self.total is None else self.total / sum(exact, Fraction(0))
        return [share * whole for share in exact]

    def _up_to(self, epoch: int) -> list[Fraction]:
        """Return the number of pairs of each set in all epochs up to one."""
        for later in range(len(self._before), epoch + 1):
            sums = zip(self._before[-1], self.sizes(later), strict=True)
            self._before.append([before + size for before, size in sums])
        return self._before[epoch]

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
