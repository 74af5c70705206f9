"""What each update trains on, put together ahead of its use by a thread of its own."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from kdmt.ranks import Ranks
from kdmt.types import Batch

Item = TypeVar("Item")


class TrainingData(Protocol):
    """Micro-batches of an epoch, in an order that is a function of (seed, epoch) alone."""

    def epoch(self, epoch: int) -> Sequence[np.ndarray]: ...

    def load(self, indices: np.ndarray) -> Batch: ...


@dataclass(frozen=True)
class Step:
    """One rank's share of an update.

    All ranks have the same number of micro-batches, since they add up their gradients together: one that has none
    left at the end of an epoch takes another's and counts it for nothing.
    """

    epoch: int
    done: int  # micro-batches of the epoch, over all ranks, that are trained on after this update
    batches: list[Batch]
    idle: int  # how many of `batches`, the last ones, count for nothing


def steps(
    data: TrainingData, *, epoch: int, done: int, update_freq: int, ranks: Ranks, pin_memory: bool = False
) -> Iterator[Step]:
    """The updates from a place in an epoch on, without end.

    An update takes the next `update_freq` times the number of ranks micro-batches, fewer at the end of an epoch; rank r
    takes every one whose number leaves r when divided by the number of ranks. So n ranks do what one rank does with
    `update_freq` n times as large.
    """
    while True:
        batches = data.epoch(epoch)
        for start in range(done, len(batches), update_freq * ranks.world):
            group = batches[start : start + update_freq * ranks.world]
            own = list(group[ranks.rank :: ranks.world])
            idle = -(-len(group) // ranks.world) - len(own)
            loaded = [data.load(indices) for indices in own + [group[0]] * idle]
            if pin_memory:
                loaded = [batch.pin_memory() for batch in loaded]
            yield Step(epoch, start + len(group), loaded, idle)
        epoch, done = epoch + 1, 0


class Prefetched(Generic[Item]):
    """The items of an iterator, each made by a thread before it is asked for. `waited` counts seconds without one."""

    def __init__(self, items: Iterator[Item], *, depth: int) -> None:
        self.items, self.depth = items, depth
        self.waited = 0.0

    def __iter__(self) -> Iterator[Item]:
        waiting: collections.deque[Future[Item]] = collections.deque()
        pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        try:
            for _ in range(self.depth):
                waiting.append(pool.submit(next, self.items))
            while True:
                asked = time.perf_counter()
                item = waiting.popleft().result()
                self.waited += time.perf_counter() - asked
                waiting.append(pool.submit(next, self.items))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)
