"""The interface of executors: tasks, the workers that do them, and their progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_ATTEMPTS = 3  # of a task


class Task(Protocol):
    """A piece of work such as a block of sentences. It is small, and it can be pickled."""

    @property
    def number(self) -> int:
        """Return the number in messages and logs: "block 12"."""

    @property
    def count(self) -> int:
        """Return the number of sentences."""


# does a task and writes its file, whole or not at all; calls the function with numbers of sentences as they are done
Worker = Callable[[Task, Callable[[int], None]], None]


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker runs on."""

    number: int  # of the worker, from 0
    threads: int
    device: str  # "cpu", "cuda:0", ...
    log: Path  # of times, hosts and errors; lines are appended


# makes a worker; may take long, since it loads the model; can be pickled, as a function of a module or a partial of one
Opener = Callable[[WorkerSpec], Worker]


@dataclass(frozen=True)
class Failed:
    """A task that failed in all attempts."""

    task: Task
    error: str  # of the last attempt, one line
    attempts: int


@dataclass(frozen=True)
class Progress:
    """Progress of a run. `sentences` falls where an attempt fails: its sentences no longer count."""

    sentences: int  # of finished tasks and of tasks in progress
    total_sentences: int
    tasks_done: int
    tasks_failed: int  # after the last attempt
    tasks_total: int
    workers: int  # that have loaded their model


class Executor(Protocol):
    """Runs tasks on workers.

    A task whose worker raises an error, dies or sends no progress is tried again, up to `MAX_ATTEMPTS` attempts.
    """

    def run(self, open_worker: Opener, tasks: Sequence[Task], progress: Callable[[Progress], None]) -> list[Failed]:
        """Run all tasks, in any order.

        Args:
            open_worker: makes a worker, in its own process.
            tasks: with different numbers.
            progress: called a few times a second, in the thread that called `run`.

        Returns:
            The tasks that failed in all attempts, by number.

        Raises:
            UserError: a worker raised it, or no worker could be opened. After any error no worker is left.
            OSError: a worker found the disk full.
            Interrupted: by SIGINT, SIGTERM, SIGHUP or SIGUSR1.
        """


def log_path(folder: Path, number: int) -> Path:
    """Return the log file of the worker with this number."""
    return folder / f"worker-{number:03d}.log"
