"""The interface of executors: tasks, workers, and progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_ATTEMPTS = 3  # for each task, with retries


class Task(Protocol):
    """A unit of work such as a block of sentences. It is small and can be pickled."""

    @property
    def number(self) -> int:
        """Number in messages and logs, such as 12 in "block 12"."""

    @property
    def count(self) -> int:
        """Number of sentences."""


# (task, progress): writes the file of the task atomically; calls `progress` with numbers of sentences done
Worker = Callable[[Task, Callable[[int], None]], None]


@dataclass(frozen=True)
class WorkerSpec:
    """The resources of a worker."""

    number: int  # number of the worker, from 0
    threads: int
    device: str  # "cpu", "cuda:0", ...
    log: Path  # file for times, hosts and errors; lines are appended


# returns a worker, which may take long, since it loads the model; a module's function or a partial, for pickling
Opener = Callable[[WorkerSpec], Worker]


@dataclass(frozen=True)
class Failed:
    """A task that failed in all attempts."""

    task: Task
    error: str  # error of the last attempt, one line
    attempts: int


@dataclass(frozen=True)
class Progress:
    """Progress of a run. `sentences` decreases when an attempt fails, since its sentences no longer count."""

    sentences: int  # number done in finished tasks and in tasks in progress
    total_sentences: int
    tasks_done: int
    tasks_failed: int  # tasks that failed in all attempts
    tasks_total: int
    workers: int  # workers that have loaded their model


class Executor(Protocol):
    """Interface of executors, which run tasks on workers.

    A task is retried if its worker raises an error, dies or sends no progress, up to `MAX_ATTEMPTS` attempts.
    """

    def run(self, open_worker: Opener, tasks: Sequence[Task], progress: Callable[[Progress], None]) -> list[Failed]:
        """Run all tasks, in any order.

        Args:
            open_worker: function that returns a worker; it is called in the worker's process.
            tasks: tasks with distinct numbers.
            progress: function that is called a few times a second, in the thread that called `run`.

        Returns:
            The tasks that failed in all attempts, sorted by number.

        Raises:
            UserError: if a worker raised it, or no worker could be opened. After any error no worker is left.
            OSError: if the disk of a worker is full.
            Interrupted: if the process received SIGINT, SIGTERM, SIGHUP or SIGUSR1.
        """


def log_path(folder: Path, number: int) -> Path:
    """Return the log file of the worker with this number."""
    return folder / f"worker-{number:03d}.log"
