"""The shape of the learning rate schedule; tests/unit/interop/test_fairseq.py compares its values with fairseq's."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import Train
from kdmt.train.schedule import inverse_sqrt


@given(lr=st.floats(1e-5, 1e-1), warmup=st.integers(1, 5000), share=st.floats(0, 1), after=st.integers(0, 100_000))
def test_rises_linearly_and_falls_with_the_square_root(lr: float, warmup: int, share: float, after: int) -> None:
    first = lr * share / 2
    settings = Train(lr=lr, warmup_updates=warmup, warmup_init_lr=first)
    assert inverse_sqrt(0, settings) == first
    middle = int(share * (warmup - 1))
    assert inverse_sqrt(middle, settings) == pytest.approx(first + (lr - first) * middle / warmup)
    assert inverse_sqrt(warmup, settings) == lr
    update = warmup + after
    assert inverse_sqrt(4 * update, settings) == pytest.approx(inverse_sqrt(update, settings) / 2)


def test_peak_is_at_the_end_of_warmup_without_jumps() -> None:
    settings = Train(lr=1e-3, warmup_updates=100, warmup_init_lr=1e-7)
    rates = [inverse_sqrt(update, settings) for update in range(400)]
    assert max(rates) == rates[100]
    assert max(abs(later - earlier) for earlier, later in pairwise(rates)) <= 1e-3 / 100
