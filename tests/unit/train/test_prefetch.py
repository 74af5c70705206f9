"""Which micro-batches each rank takes, and loading ahead: nothing lost, nothing twice, nothing out of order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdmt.ranks import Ranks, interleave
from kdmt.train.prefetch import Prefetched, Step, steps
from kdmt.types import Batch


class Numbered:
    """Epochs of `length` micro-batches, each a single pair; its number tells epoch and place."""

    def __init__(self, length: int) -> None:
        self.length = length

    def epoch(self, epoch: int) -> Sequence[np.ndarray]:
        return [np.array([1000 * epoch + number]) for number in range(self.length)]

    def load(self, indices: np.ndarray) -> Batch:
        tokens = torch.as_tensor(indices)
        return Batch(index_B=tokens, src_tokens_BS=tokens[:, None])


def take(length: int, count: int, *, world: int, update_freq: int, done: int = 0) -> list[list[Step]]:
    """The first steps of each rank."""
    ranks = [Ranks(rank, world) for rank in range(world)]
    return [
        list(itertools.islice(steps(Numbered(length), epoch=1, done=done, update_freq=update_freq, ranks=each), count))
        for each in ranks
    ]


def numbers(step: Step) -> list[int]:
    """The micro-batches that count."""
    return [int(batch.index_B) for batch in step.batches[: len(step.batches) - step.idle]]


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 12))
def test_ranks_together_take_what_one_rank_takes(length: int, world: int, update_freq: int, done: int) -> None:
    done = min(done, length)
    alone = take(length, 6, world=1, update_freq=update_freq * world, done=done)[0]
    together = take(length, 6, world=world, update_freq=update_freq, done=done)
    for one, parts in zip(alone, zip(*together, strict=True), strict=True):
        assert sorted(number for part in parts for number in numbers(part)) == numbers(one)
        assert {(part.epoch, part.done) for part in parts} == {(one.epoch, one.done)}
        assert len({len(part.batches) for part in parts}) == 1  # all ranks make the same number of passes
        assert all(part.idle in (0, 1) for part in parts)


def test_an_epoch_that_is_done_is_followed_by_the_next() -> None:
    (first, second, third), *_ = take(3, 3, world=1, update_freq=2, done=2)
    assert (numbers(first), first.epoch, first.done) == ([1002], 1, 3)
    assert (numbers(second), second.epoch, second.done) == ([2000, 2001], 2, 2)
    assert (numbers(third), third.epoch, third.done) == ([2002], 2, 3)


def test_items_come_in_order_and_ahead_of_their_time() -> None:
    made: list[int] = []
    ready = threading.Event()

    def items() -> Iterator[int]:
        for number in itertools.count():
            made.append(number)
            if number == 4:
                ready.set()
            yield number

    taken = iter(Prefetched(items(), depth=4))
    assert next(taken) == 0
    assert ready.wait(10)  # the fifth is made while the first is at work
    assert [next(taken) for _ in range(20)] == list(range(1, 21))
    taken.close()  # type: ignore[attr-defined]
    assert made == list(range(len(made)))
    assert len(made) <= 26


def test_what_goes_wrong_ahead_is_raised_when_it_is_reached() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ZeroDivisionError

    taken = iter(Prefetched(items(), depth=2))
    assert [next(taken) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(taken)


def test_time_without_an_item_is_counted() -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        release.wait(10)
        yield 1
        yield from itertools.count(2)

    prefetched = Prefetched(items(), depth=1)
    taken = iter(prefetched)
    next(taken)
    before = prefetched.waited
    threading.Timer(0.05, release.set).start()
    next(taken)
    assert prefetched.waited - before > 0.02
    taken.close()  # type: ignore[attr-defined]


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_interleaved_slices_are_the_list(items: list[int], world: int) -> None:
    assert interleave([items[rank::world] for rank in range(world)]) == items
