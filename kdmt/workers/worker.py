"""The worker's side of an executor: open, do tasks, write a log, send errors to the driver."""

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
# clears it in pages of 4 KiB at the next allocation; here a process keeps it, in pages of 2 MiB if there are any.
_KEEP_MEMORY = {"hugetlb": 1, "arena_max": 1, "mmap_max": 0, "trim_threshold": 2**40, "top_pad": 2**26}


@dataclass(frozen=True)
class WorkerError:
    """An exception as it is sent to the driver: many cannot be pickled, and a traceback keeps tensors alive."""

    message: str  # one line
    final: UserError | OSError | None = None  # set where another attempt cannot help: bad input, a full disk

    @classmethod
    def of(cls, error: Exception) -> WorkerError:
        if isinstance(error, UserError):
            return cls(str(error), UserError(str(error)))
        if isinstance(error, OSError) and error.errno in LASTING:
            return cls(one_line(error), OSError(error.errno, error.strerror, error.filename and str(error.filename)))
        return cls(one_line(error))


class WorkerLog:
    """Log of a worker: lines of time, host, process and text, appended to a file that other processes may write to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._who = f"{socket.gethostname()} {os.getpid()}"

    def __call__(self, text: str) -> None:
        """Write a line; a log that cannot be written fails no task."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(printable(f"{now} {self._who} {text}", keep="\n\t") + "\n")
        except OSError:
            pass


def worker_environment(threads: int) -> dict[str, str]:
    """Return environment variables for a worker's process: libraries read them when they are loaded."""
    keep_memory = ":".join(f"glibc.malloc.{name}={value}" for name, value in _KEEP_MEMORY.items())
    return {"OMP_NUM_THREADS": str(threads), "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", keep_memory)}


def open_worker(opener: bytes, spec: WorkerSpec, log: WorkerLog) -> Worker | WorkerError:
    """Return a worker, made by a pickled opener; or the error."""
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
    """Do a task; an exception is logged with its traceback and returned."""
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
    """Return type and message of an exception; of a message of several lines the last one."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
    return text[:_MAX_MESSAGE]
