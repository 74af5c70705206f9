"""Processing of text in other processes: an ordered `map` over chunks in bounded memory, or single calls."""

from __future__ import annotations

import collections
import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from multiprocessing.connection import wait
from typing import Any, TypeVar

from kdmt.spawn import spawn_context

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

# function -> context in which a map with it, which keeps the order of the chunks, may be used
OpenMap = Callable[[Callable[[Any], Any]], AbstractContextManager[Callable[[Iterable[Any]], Iterator[Any]]]]

_CHUNKS_IN_FLIGHT = 3  # per worker, so that the next chunk is available when one is done


@contextmanager
def mapping_in_order(
    function: Callable[[Chunk], Result], workers: int
) -> Iterator[Callable[[Iterable[Chunk]], Iterator[Result]]]:
    """Provide a `map` with `function` that keeps the order of the chunks.

    It runs in this process if `workers` is 1, else in `workers` worker processes. The function is sent to each worker
    process only once, because it may be large; after that, only chunks and results are sent.
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
def helper_process(module: str) -> Iterator[Executor]:
    """Provide another process, which imports a module in advance. The process ends with the context."""
    with ProcessPoolExecutor(1, mp_context=spawn_context(), initializer=end_with_parent) as pool:
        pool.submit(_load, module)
        yield pool


def _load(module: str) -> None:
    import_module(module)


def end_with_parent() -> None:
    """End this process when its parent process has ended. Otherwise a process of a pool waits for work forever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
