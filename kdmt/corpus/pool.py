"""Work on text in other processes: `map` over chunks, whose order is kept in bounded memory, or one call beside."""

from __future__ import annotations

import collections
import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import wait
from typing import Any, TypeVar

from kdmt.spawn import spawn_context

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

_CHUNKS_IN_FLIGHT = 3  # per worker: the next is there when one is done


@contextmanager
def mapping_in_order(
    function: Callable[[Chunk], Result], workers: int
) -> Iterator[Callable[[Iterable[Chunk]], Iterator[Result]]]:
    """Give a `map` with `function`, in this process for one worker, shared by `workers` others for more.

    The function is sent once a worker, since it may hold much; chunks and results travel.
    """
    if workers == 1:
        yield functools.partial(map, function)
        return
    with ProcessPoolExecutor(
        workers,
        mp_context=spawn_context(),
        initializer=_set_up_worker,
        initargs=(function,),
    ) as pool:

        def map_in_order(chunks: Iterable[Chunk]) -> Iterator[Result]:
            waiting: collections.deque[Future[Result]] = collections.deque()
            for chunk in chunks:
                waiting.append(pool.submit(_work, chunk))
                if len(waiting) == workers * _CHUNKS_IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield map_in_order


_worker_function: Callable[[Any], Any]


def _set_up_worker(function: Callable[[Any], Any]) -> None:
    global _worker_function
    end_with_parent()
    _worker_function = function


def _work(chunk: Any) -> Any:
    return _worker_function(chunk)


@contextmanager
def process_beside(module: str) -> Iterator[Executor]:
    """Another process, which loads a module while it is not needed yet; it ends with the context."""
    with ProcessPoolExecutor(1, mp_context=spawn_context(), initializer=end_with_parent) as pool:
        pool.submit(_load, module)
        yield pool


def _load(module: str) -> None:
    import_module(module)


def end_with_parent() -> None:
    """Have this process end when the one that started it is gone: a pool's waits for work for ever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
