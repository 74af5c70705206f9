"""Tests of the selection rules against loops written from the paper (Wang et al. 2021)."""

from __future__ import annotations

from collections import deque

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.losses.token_selection import harder_than_most, hardest, push

RATES = st.floats(0.01, 1.0)
VALUES = st.lists(st.integers(0, 40).map(lambda value: value / 8), min_size=1, max_size=40)


@given(VALUES, RATES)
@settings(deadline=None)
def test_batch_level(values: list[float], rate: float) -> None:
    wanted = max(1, int(rate * len(values)))
    chosen: set[int] = set()
    while len(chosen) < wanted:  # the hardest remaining token, the first among equals
        left = [position for position in range(len(values)) if position not in chosen]
        chosen.add(max(left, key=lambda position: (values[position], -position)))
    found = hardest(torch.tensor(values), rate)
    assert set(found.nonzero()[:, 0].tolist()) == chosen


@given(st.lists(VALUES, min_size=1, max_size=6), RATES, st.integers(1, 60))
@settings(deadline=None)
def test_global_level(batches: list[list[float]], rate: float, length: int) -> None:
    oracle: deque[float] = deque(maxlen=length)
    queue = torch.empty(0)
    for values in batches:
        oracle.extend(values)
        ranked = sorted(oracle, reverse=True)
        threshold = ranked[max(1, int(rate * len(ranked))) - 1]
        nll = torch.tensor(values)
        queue = push(queue, nll, length)
        assert queue.tolist() == list(oracle)
        assert harder_than_most(nll, queue, rate).tolist() == [value >= threshold for value in values]
