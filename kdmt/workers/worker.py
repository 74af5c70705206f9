"""Code of an executor that runs in workers: opening, tasks, logs, and errors for the driver."""

from __future__ import annotations

import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kdmt.errors import UserError
from kdmt.files import LASTING
from kdmt.terminal import printable
from kdmt.workers.tasks import MAX_ATTEMPTS, Opener, Task, Worker, WorkerSpec

_MAX_MESSAGE = 500  # characters
# Engines allocate and free large arrays at every step. By default glibc returns freed memory to the kernel, which
# clears it in pages of 4 KiB at the next allocation. With these settings a process keeps it, in pages of 2 MiB if
# available.
_KEEP_MEMORY = {"hugetlb": 1, "arena_max": 1, "mmap_max": 0, "trim_threshold": 2**40, "top_pad": 2**26}


@dataclass(frozen=True)
class WorkerError:
    """An exception in the form sent to the driver: many cannot be pickled, and a traceback keeps tensors alive."""

    message: str  # one line
    final: UserError | OSError | None = None  # set if a retry cannot help: bad input, a full disk

    @classmethod
    def of(cls, error: Exception) -> WorkerError:
        if isinstance(error, UserError):
            return cls(str(error), UserError(str(error)))
        if isinstance(error, OSError) and error.errno in LASTING:
            return cls(one_line(error), OSError(error.errno, error.strerror, error.filename and str(error.filename)))
        return cls(one_line(error))


class WorkerLog:
    """Log of a worker: lines with time, host, process and text in a file that other processes may append to too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._who = f"{socket.gethostname()} {os.getpid()}"

    def __call__(self, text: str) -> None:
        """Write a line; ignore errors, so that no task fails because of its log."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(printable(f"{now} {self._who} {text}", keep="\n\t") + "\n")
        except OSError:
            pass


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment variables of a worker's process; libraries read them when they are loaded."""
    keep_memory = ":".join(f"glibc.malloc.{name}={value}" for name, value in _KEEP_MEMORY.items())
    return {"OMP_NUM_THREADS": str(threads), "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", keep_memory)}


def open_worker(opener: bytes, spec: WorkerSpec, log: WorkerLog) -> Worker | WorkerError:
    """Return the worker from a pickled opener, or the error."""
    started = time.perf_counter()
    try:
        make: Opener = pickle.loads(opener)
        worker = make(spec)
    except Exception as error:
        log(f"cannot be opened on {spec.device}: {traceback.format_exc()}")
        return WorkerError.of(error)
    log(f"open on {spec.device} with {spec.threads} threads after {time.perf_counter() - started:.2f} s")
    return worker


def do_task(
    worker: Worker, task: Task, attempt: int, progress: Callable[[int], None], log: WorkerLog
) -> WorkerError | None:
    """Do a task; log an exception with its traceback and return it, None if there was none."""
    started = time.perf_counter()
    log(f"{name_attempt(task, attempt)} begins")
    try:
        worker(task, progress)
    except Exception as error:
        log(f"{name_attempt(task, attempt)} failed: {traceback.format_exc()}")
        return WorkerError.of(error)
    seconds = time.perf_counter() - started
    log(f"block {task.number}: {task.count} sentences in {seconds:.2f} s, {task.count / seconds:.1f} sentences/s")
    return None


def name_attempt(task: Task, attempt: int) -> str:
    """Return the name of an attempt in logs."""
    return f"block {task.number}, attempt {attempt} of {MAX_ATTEMPTS},"


def one_line(error: BaseException) -> str:
    """Return the type of an exception and the last line of its message."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
    return text[:_MAX_MESSAGE]
