"""Schedules of the learning rate by hand-computed values of fairseq's formulas, and their properties.

tests/unit/interop/fairseq/test_states.py compares `inverse_sqrt` with the learning rates of fairseq itself.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.choices import LRSchedule
from kdmt.config import Train
from kdmt.train.schedule import inverse_sqrt, learning_rate

DECAYING = [name for name in get_args(LRSchedule) if name != "inverse_sqrt"]


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


# Each schedule rises from 0.1 to 0.9 over 4 updates, and has 8 updates more to decay to 0.1. The values are computed by
# hand: at the updates 4, 6, 8, 10 and 12 the share of the decay that is left is 1, 3/4, 1/2, 1/4 and 0.
BY_HAND: list[tuple[LRSchedule, dict[str, float], list[float]]] = [
    ("linear", {}, [0.9, 0.7, 0.5, 0.3, 0.1]),
    # 0.1 + 0.4 * (1 + cos(0)), ... (1 + cos(pi / 4)), 1 + 0, 1 - sqrt(2) / 2, 1 - 1
    ("cosine", {}, [0.9, 0.1 + 0.4 * 1.7071067811865475, 0.5, 0.1 + 0.4 * 0.2928932188134524, 0.1]),
    ("polynomial_decay", {}, [0.9, 0.7, 0.5, 0.3, 0.1]),
    ("polynomial_decay", {"power": 2.0}, [0.9, 0.1 + 0.8 * 0.5625, 0.1 + 0.8 * 0.25, 0.1 + 0.8 * 0.0625, 0.1]),
    ("polynomial_decay", {"power": 0.5}, [0.9, 0.1 + 0.8 * 0.75**0.5, 0.1 + 0.8 * 0.5**0.5, 0.5, 0.1]),
    # a third of 12 updates decays: 8 to 12
    ("wsd", {"decay_share": 1 / 3}, [0.9, 0.9, 0.9, 0.5, 0.1]),
    # three quarters of 12 updates would be 9, but only 8 follow the warmup
    ("wsd", {"decay_share": 0.75}, [0.9, 0.7, 0.5, 0.3, 0.1]),
]


@pytest.mark.parametrize(("name", "more", "expected"), BY_HAND)
def test_values_by_hand(name: LRSchedule, more: dict[str, float], expected: list[float]) -> None:
    settings = Train(lr=0.9, min_lr=0.1, warmup_init_lr=0.1, warmup_updates=4, max_updates=12, lr_schedule=name, **more)
    assert [learning_rate(update, settings) for update in (4, 6, 8, 10, 12)] == pytest.approx(expected, rel=1e-14)
    assert [learning_rate(update, settings) for update in range(4)] == pytest.approx([0.1, 0.3, 0.5, 0.7], rel=1e-14)
    assert learning_rate(13, settings) == 0.1


def fairseq_polynomial_decay(update: int, *, lr: float, end: float, warmup: int, total: int, power: float) -> float:
    """Return the learning rate that step_update of fairseq's polynomial_decay sets, written out from its formula."""
    if update <= warmup:
        return update / float(warmup) * lr
    if update >= total:
        return end
    return (lr - end) * (1 - (update - warmup) / (total - warmup)) ** power + end


def fairseq_cosine(update: int, *, lr: float, end: float, warmup: int, total: int) -> float:
    """Return the learning rate of fairseq's cosine schedule in its first period, with a warmup from 0."""
    if update < warmup:
        return update * (lr / warmup)
    return end + 0.5 * (lr - end) * (1 + math.cos(math.pi * (update - warmup) / (total - warmup)))


@given(
    lr=st.floats(1e-5, 1e-1),
    end=st.floats(0, 1),
    warmup=st.integers(1, 500),
    after=st.integers(1, 5000),
    power=st.floats(0.1, 5),
    place=st.floats(0, 1, exclude_max=True),
)
def test_decays_are_fairseqs(lr: float, end: float, warmup: int, after: int, power: float, place: float) -> None:
    total = warmup + after
    update = int(place * total)
    shared = {"lr": lr, "min_lr": end * lr, "warmup_init_lr": 0.0, "warmup_updates": warmup, "max_updates": total}
    polynomial = Train(lr_schedule="polynomial_decay", power=power, **shared)
    numbers = {"lr": lr, "end": end * lr, "warmup": warmup, "total": total}
    assert learning_rate(update, polynomial) == pytest.approx(
        fairseq_polynomial_decay(update, power=power, **numbers), rel=1e-12
    )
    linear = Train(lr_schedule="linear", **shared)
    assert learning_rate(update, linear) == pytest.approx(
        fairseq_polynomial_decay(update, power=1.0, **numbers), rel=1e-12
    )
    cosine = Train(lr_schedule="cosine", **shared)
    assert learning_rate(update, cosine) == pytest.approx(fairseq_cosine(update, **numbers), rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("name", DECAYING)
@given(warmup=st.integers(1, 50), after=st.integers(1, 300), share=st.floats(0.01, 1), low=st.floats(0, 0.9))
def test_decays_do_not_rise_and_end_at_min_lr(
    name: LRSchedule, warmup: int, after: int, share: float, low: float
) -> None:
    own = {"decay_share": share} if name == "wsd" else {}
    total = warmup + after
    settings = Train(
        lr=1.0, min_lr=low, warmup_init_lr=0.0, warmup_updates=warmup, max_updates=total, lr_schedule=name, **own
    )
    rates = [learning_rate(update, settings) for update in range(total + 3)]
    assert rates[:warmup] == pytest.approx([update / warmup for update in range(warmup)])
    assert rates[warmup] == 1.0 if name != "cosine" else rates[warmup] == pytest.approx(1.0)
    assert all(later <= earlier + 1e-15 for earlier, later in pairwise(rates[warmup:]))
    assert min(rates[warmup:]) >= low - 1e-15
    assert rates[total:] == [low] * 3


@given(total=st.integers(20, 500), share=st.floats(0.05, 0.9))
def test_wsd_is_constant_until_its_share_of_the_updates_and_linear_after(total: int, share: float) -> None:
    settings = Train(lr=1.0, warmup_updates=1, max_updates=total, lr_schedule="wsd", decay_share=share)
    rates = [learning_rate(update, settings) for update in range(total)]
    below = [update for update in range(1, total) if rates[update] < 1.0 - 1e-12]
    assert all(update > total - share * total - 1e-9 for update in below)
    assert len(below) == pytest.approx(share * total, abs=2)
    steps = [rates[update] - rates[update + 1] for update in below[:-1]]
    assert steps == pytest.approx([1 / (share * total)] * len(steps))


def test_wsd_without_a_decay_is_continued_by_a_run_that_only_decays() -> None:
    shared = {"lr": 1.0, "warmup_updates": 100, "lr_schedule": "wsd"}
    first = Train(max_updates=6000, decay_share=0.0001, **shared)
    assert {learning_rate(update, first) for update in range(100, 6000)} == {1.0}
    second = Train(max_updates=2000, decay_share=0.25, **shared)
    rates = [learning_rate(update, second, offset=6000) for update in range(2000)]
    assert rates == pytest.approx([1 - update / 2000 for update in range(2000)])


@pytest.mark.parametrize("name", get_args(LRSchedule))
@given(before=st.integers(0, 60))
def test_run_that_continues_a_schedule_has_the_rates_of_a_single_run(name: LRSchedule, before: int) -> None:
    whole = Train(lr=1e-3, warmup_updates=20, max_updates=61, lr_schedule=name)
    rest = whole.model_copy(update={"max_updates": 61 - before})
    expected = [learning_rate(update, whole) for update in range(before, 61)]
    assert [learning_rate(update, rest, offset=before) for update in range(61 - before)] == expected
