"""Epochs of a mixture, compared with counts that follow from the shares."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdmt.train.mixture import Mixture, earlier_occurrences


def sets_of(*sizes: int) -> list[np.ndarray]:
    """Return the indices of concatenated sets."""
    ends = np.cumsum([0, *sizes])
    return [np.arange(start, stop) for start, stop in itertools.pairwise(ends)]


def counts(mixture: Mixture, pairs: np.ndarray) -> list[int]:
    """Return the number of pairs of each set."""
    return [int(np.isin(pairs, each).sum()) for each in mixture.sets]


def test_an_epoch_has_the_first_set_once_and_the_others_by_their_shares() -> None:
    mixture = Mixture(sets_of(700, 700, 50), (0.7, 0.2, 0.1), seed=1)
    for epoch in (1, 2, 9):
        pairs = mixture.pairs(epoch)
        assert counts(mixture, pairs) == [700, 200, 100]
        assert set(mixture.sets[0]) <= set(pairs.tolist())
        assert set(Counter(pairs[900:].tolist()).values()) == {2}  # 100 pairs of 50: all of them, twice


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=4),
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    st.integers(1, 12),
)
def test_no_pair_is_used_again_before_all_others_of_its_set(sizes: list[int], parts: list[int], epochs: int) -> None:
    parts = parts[: len(sizes)]
    mixture = Mixture(sets_of(*sizes), [part / sum(parts) for part in parts], seed=3)
    used = np.concatenate([mixture.pairs(epoch) for epoch in range(1, epochs + 1)])
    for number, each in enumerate(mixture.sets):
        own = used[np.isin(used, each)]
        assert abs(len(own) - epochs * sizes[0] * parts[number] / parts[0]) <= 1  # nothing is lost by rounding
        for start in range(0, len(own) - len(each) + 1, len(each)):
            assert sorted(own[start : start + len(each)].tolist()) == each.tolist()


def test_decimal_shares_are_exact() -> None:
    mixture = Mixture(sets_of(3, 100), (0.3, 0.7), seed=1)  # 3 * 0.7 / 0.3 is 6.999999999999999 in floating point
    assert [len(mixture.pairs(epoch)) for epoch in range(1, 200)] == [10] * 199
    thirds = Mixture(sets_of(10, 10), (0.75, 0.25), seed=1)  # 10 / 3 pairs an epoch
    assert [counts(thirds, thirds.pairs(epoch))[1] for epoch in range(1, 7)] == [3, 3, 4, 3, 3, 4]


def test_an_epoch_does_not_depend_on_the_epochs_before() -> None:
    shares, sets = (0.3, 0.5, 0.2), sets_of(40, 7, 90)
    in_order = Mixture(sets, shares, seed=5)
    expected = [in_order.pairs(epoch).tolist() for epoch in range(1, 8)]
    for epoch in (7, 2, 5):
        assert Mixture(sets, shares, seed=5).pairs(epoch).tolist() == expected[epoch - 1]
    assert expected[0] != expected[1]
    assert Mixture(sets, shares, seed=6).pairs(1).tolist() != expected[0]
    assert Mixture(sets, shares, seed=5).pairs(1, order=2).tolist() != expected[0]


@given(st.lists(st.integers(0, 9), max_size=40))
def test_earlier_occurrences_are_counted(indices: list[int]) -> None:
    found = earlier_occurrences(np.array(indices, dtype=np.int64))
    assert found.tolist() == [indices[:place].count(index) for place, index in enumerate(indices)]
