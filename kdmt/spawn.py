"""New processes by the start method `spawn`, because a fork of a process with threads may hang.

A spawned process runs the main module of the program again, so that functions of that module can be sent to it. kdmt
sends only functions of its own modules, and a script that calls `Pipeline.run` outside `if __name__ == "__main__":`
would run again in each process. So the main module is hidden while a process starts.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess

_LOCK = threading.Lock()
_LOCATION = ("__file__", "__spec__")  # attributes by which `multiprocessing.spawn` finds the main module


class _Process(SpawnProcess):
    def start(self) -> None:
        with _hidden_main():
            super().start()


class _Context(SpawnContext):
    Process = _Process


def spawn_context(*, runs_main: bool = False) -> SpawnContext:
    """Return a `multiprocessing` context for new processes.

    Args:
        runs_main: whether the processes run the main module again, for functions that are defined in it.
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
