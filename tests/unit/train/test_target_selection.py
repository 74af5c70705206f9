"""Choice between two targets on a toy with known distances."""

from __future__ import annotations

import numpy as np
import pytest

from kdmt.train.target_selection import TargetSelection

# five pairs; the second targets are pairs 5 to 8, and pair 2 has none
SECOND = np.array([5, 6, -1, 7, 8])
DISTANCES = np.array([0.9, 0.1, 0.0, 0.5, 0.1], dtype=np.float32)


def selection(points: list[tuple[int, float]], max_distance: float = 1.0) -> TargetSelection:
    made = TargetSelection(SECOND, points, max_distance)
    made.use(DISTANCES)
    return made


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (0, [0, 1, 2, 3, 4]),
        (19, [0, 1, 2, 3, 4]),  # a share of .81 of 5 lines leaves less than one
        (20, [0, 6, 2, 3, 4]),  # of equal distances, the first pair comes first
        (40, [0, 6, 2, 3, 8]),
        (60, [0, 6, 2, 7, 8]),
        (80, [5, 6, 2, 7, 8]),
        (100, [5, 6, 2, 7, 8]),  # pair 2 has no second target
        (900, [5, 6, 2, 7, 8]),
    ],
)
def test_pairs_with_the_smallest_distances_change_their_target_first(update: int, expected: list[int]) -> None:
    made = selection([(0, 1.0), (100, 0.0)])
    assert made.choose(np.arange(5), update).tolist() == expected
    assert made.choose(np.array([4, 0, 1]), update).tolist() == [expected[4], expected[0], expected[1]]


def test_targets_over_the_maximum_distance_are_never_used() -> None:
    made = selection([(0, 0.0)], max_distance=0.5)
    assert made.num_allowed == 3
    assert made.choose(np.arange(5), 0).tolist() == [0, 6, 2, 7, 8]


@pytest.mark.parametrize("share", [0.8, 0.6, 0.4, 0.2])
def test_decimal_shares_are_exact(share: float) -> None:
    assert selection([(0, share)]).num_second(0) == round(5 * (1 - share))


def test_batches_are_planned_for_the_longer_target() -> None:
    sizes = np.array([3, 9, 4, 2, 6, 5, 7, 2, 8], dtype=np.int32)
    assert selection([(0, 0.5)]).longest_sizes(sizes).tolist() == [5, 9, 4, 2, 8]
