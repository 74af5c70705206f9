"""The worker's side of an executor: open, do tasks, keep a log, say what went wrong in a form that travels."""

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
from kdmt.workers.tasks import MAX_ATTEMPTS, Opener, Place, Task, Worker

_MAX_MESSAGE = 500  # characters
# Engines take and give back large arrays at every step. By default glibc has the kernel take them away and give them
# anew, cleared, in pages of 4 KiB; here a process keeps what it has, in pages of 2 MiB where the kernel has them.
_KEEP_MEMORY = {"hugetlb": 1, "arena_max": 1, "mmap_max": 0, "trim_threshold": 2**40, "top_pad": 2**26}


@dataclass(frozen=True)
class Trouble:
    """An exception on its way to the driver: many cannot be pickled, and a traceback keeps tensors alive."""

    message: str  # one line
    final: UserError | OSError | None = None  # what trying again does not cure: bad input, a full disk

    @classmethod
    def of(cls, error: Exception) -> Trouble:
        if isinstance(error, UserError):
            return cls(str(error), UserError(str(error)))
        if isinstance(error, OSError) and error.errno in LASTING:
            return cls(one_line(error), OSError(error.errno, error.strerror, error.filename and str(error.filename)))
        return cls(one_line(error))


class WorkerLog:
    """Lines of time, host, process and text, appended to a file that others may write to as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._who = f"{socket.gethostname()} {os.getpid()}"

    def __call__(self, text: str) -> None:
        """Write a line; a log that cannot be written costs no task."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(printable(f"{now} {self._who} {text}", keep="\n\t") + "\n")
        except OSError:
            pass


def worker_environment(threads: int) -> dict[str, str]:
    """Variables that a worker's process must find when it starts: the libraries read them when they are loaded."""
    keep_memory = ":".join(f"glibc.malloc.{name}={value}" for name, value in _KEEP_MEMORY.items())
    return {"OMP_NUM_THREADS": str(threads), "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", keep_memory)}


def open_worker(opener: bytes, place: Place, log: WorkerLog) -> Worker | Trouble:
    """A worker, of a pickled opener."""
    started = time.perf_counter()
    try:
        make: Opener = pickle.loads(opener)
        worker = make(place)
    except Exception as error:
        log(f"cannot be opened on {place.device}: {traceback.format_exc()}")
        return Trouble.of(error)
    log(f"open on {place.device} with {place.threads} threads after {time.perf_counter() - started:.2f} s")
    return worker


def do_task(
    worker: Worker, task: Task, attempt: int, progress: Callable[[int], None], log: WorkerLog
) -> Trouble | None:
    """Do a task; what it raises is logged with its traceback and given back."""
    started = time.perf_counter()
    log(f"{name_attempt(task, attempt)} begins")
    try:
        worker(task, progress)
    except Exception as error:
        log(f"{name_attempt(task, attempt)} failed: {traceback.format_exc()}")
        return Trouble.of(error)
    seconds = time.perf_counter() - started
    log(f"block {task.number}: {task.count} sentences in {seconds:.2f} s, {task.count / seconds:.1f} sentences/s")
    return None


def name_attempt(task: Task, attempt: int) -> str:
    return f"block {task.number}, attempt {attempt} of {MAX_ATTEMPTS},"


def one_line(error: BaseException) -> str:
    """Type and message, the last line of it where there are more."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
    return text[:_MAX_MESSAGE]
