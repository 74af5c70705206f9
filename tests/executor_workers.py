"""Workers for the tests of executors, imported by child processes and Ray actors; see `Scribes`."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdmt.distill.blocks import Block
from kdmt.errors import UserError
from kdmt.workers.tasks import Task, Worker, WorkerSpec

COUNT = 4  # sentences in a block
ALWAYS = 9


def make_tasks(number: int) -> list[Block]:
    return [Block(number=i, first=COUNT * i, count=COUNT) for i in range(number)]


@dataclass(frozen=True)
class Scribes:
    """Opens workers that write a file for each task, with the worker's process, cores and threads, and may fail.

    Args:
        folder: folder for the files.
        troubles: kind of failure and number of failing attempts by task; the kinds are "raise", "kill", "exit", "hang",
            "user" and "full".
        seconds: duration of a task.
        opening: kind of failure when a worker opens, as in `troubles`, and the number of failing openings.
        gate: first task that waits for the file `open` before it finishes; None if no task waits.
        exclusive: whether it is an error if a task is finished twice.
    """

    folder: Path
    troubles: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    opening: tuple[str, int] = ("none", 0)
    gate: int | None = None
    exclusive: bool = True

    def __call__(self, spec: WorkerSpec) -> Worker:
        kind, times = self.opening
        if self._count("opening") <= times:
            get_into(kind)

        def work(task: Task, progress: Callable[[int], None]) -> None:
            progress(COUNT // 2)
            kind, times = self.troubles.get(task.number, ("none", 0))
            if self._count(f"attempt-{task.number}") <= times:
                get_into(kind)
            time.sleep(self.seconds)
            while self.gate is not None and task.number >= self.gate and not (self.folder / "open").exists():
                time.sleep(0.02)
                progress(0)
            cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
            text = f"{spec.number} {os.getpid()} {cores} {os.environ.get('OMP_NUM_THREADS')} {spec.device}\n"
            with (self.folder / f"done-{task.number}").open("x" if self.exclusive else "w") as file:
                file.write(text)
            progress(task.count - COUNT // 2)

        return work

    def _count(self, name: str) -> int:
        """Return how often this was called with `name` so far, this call included, in all processes."""
        for number in range(1, 100):
            try:
                (self.folder / f"{name}-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return number
        raise AssertionError(name)

    def done(self) -> dict[int, list[str]]:
        """Return the fields of the file that each finished task wrote, by task."""
        return {int(path.name.split("-")[1]): path.read_text().split() for path in self.folder.glob("done-*")}

    def attempts(self, task: int) -> int:
        return len(list(self.folder.glob(f"attempt-{task}-*")))


@dataclass(frozen=True)
class Allocating:
    """Opens a worker that allocates and frees 64 MiB 20 times and writes the number of its minor page faults."""

    folder: Path

    def __call__(self, _: WorkerSpec) -> Worker:
        def work(task: Task, progress: Callable[[int], None]) -> None:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                b"x" * 2**26  # numpy would use huge pages
            (self.folder / "faults").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
            progress(task.count)

        return work


def get_into(kind: str) -> None:
    match kind:
        case "raise":
            raise RuntimeError("first line\nthe teacher stumbled")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            sys.exit(3)
        case "hang":
            time.sleep(600)
        case "user":
            raise UserError("corpus.de: line 3 is bad")
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/000001.gz")
