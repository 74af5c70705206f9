"""Choice between two targets of each source by a distance and a schedule, for selective distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor

import numpy as np
from numpy.typing import NDArray

from kdmt.objectives.annealing import piecewise_linear


@dataclass
class TargetSelection:
    """Second targets of some pairs, and the rule by which they replace the first ones.

    At each update, a pair has its second target if it is among the share of pairs with the smallest distances that the
    schedule requires, and its distance is at most `max_distance`. Pairs with equal distances are in the order of their
    indices. The choice depends on the update alone.

    Attributes:
        second: index of the pair with the second target for each pair, int64 [pairs]; -1 where there is none.
        points: (update, share of all pairs that keep their first target) points, linear in between.
        max_distance: maximum distance of a second target that is used.
        rank: number of pairs that get their second target earlier, int64 [pairs]; `use` sets it.
        num_allowed: number of pairs whose second target may be used.
    """

    second: NDArray[np.int64]
    points: Sequence[tuple[int, float]]
    max_distance: float
    rank: NDArray[np.int64] = field(init=False)
    num_allowed: int = field(init=False)

    def use(self, distances: NDArray[np.float32]) -> None:
        """Set the distance of each pair, float32 [pairs]; values of pairs without a second target are ignored."""
        allowed = (self.second >= 0) & (distances <= self.max_distance)
        order = np.argsort(np.where(allowed, distances, np.inf), kind="stable")
        self.rank = np.empty(len(order), dtype=np.int64)
        self.rank[order] = np.arange(len(order))
        self.num_allowed = int(allowed.sum())

    def num_second(self, update: int) -> int:
        """Return the number of pairs with their second target at an update, from 0."""
        share = 1.0 - piecewise_linear(update, self.points)
        return min(floor(share * len(self.second) + 1e-9), self.num_allowed)  # 1e-9: 1.0 - 0.7 is less than 0.3

    def choose(self, indices: NDArray[np.int64], update: int) -> NDArray[np.int64]:
        """Return the index of the chosen pair for each of some pairs."""
        return np.where(self.rank[indices] < self.num_second(update), self.second[indices], indices)

    def longest_sizes(self, sizes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the larger size of both targets of each pair, int32 [pairs], from the sizes of all targets."""
        first = sizes[: len(self.second)]
        return np.where(self.second >= 0, np.maximum(first, sizes[self.second]), first)
