"""Processes that start from nothing (`spawn`): a fork of a process with threads may hang.

A spawned process runs the main module of the program again, so that functions of that module can be sent to it. kdmt
sends functions of its own, and a script that calls `Pipeline.run` outside `if __name__ == "__main__":` would start
itself again in each process. So the main module is hidden while a process starts.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess

_LOCK = threading.Lock()
_LOCATION = ("__file__", "__spec__")  # from which `multiprocessing.spawn` reads what to run again


class _Process(SpawnProcess):
    def start(self) -> None:
        with _hidden_main():
            super().start()


class _Context(SpawnContext):
    Process = _Process


def spawn_context(*, runs_main: bool = False) -> SpawnContext:
    """Return the context of `multiprocessing` for new processes.

    Args:
        runs_main: whether they run the main module again, for functions that are defined there.
    """
    return multiprocessing.get_context("spawn") if runs_main else _Context()


@contextmanager
def _hidden_main() -> Iterator[None]:
    main = sys.modules["__main__"]
    with _LOCK:
        hidden = {name: getattr(main, name) for name in _LOCATION if hasattr(main, name)}
        try:
            main.__spec__ = None
            main.__dict__.pop("__file__", None)
            yield
        finally:
            for name, value in hidden.items():
                setattr(main, name, value)
