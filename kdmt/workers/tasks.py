"""What an executor is given and what it gives back: tasks, the workers that do them, and how far they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_ATTEMPTS = 3  # of a task, all told


class Task(Protocol):
    """A piece of work such as a block of sentences: small, picklable, done by itself."""

    @property
    def number(self) -> int:
        """Names it in messages and logs: "block 12"."""

    @property
    def count(self) -> int:
        """Of sentences."""


# Does a task to its end and writes its file, whole or not at all; tells numbers of sentences as they are done.
Worker = Callable[[Task, Callable[[int], None]], None]


@dataclass(frozen=True)
class Place:
    """Where a worker is."""

    number: int  # of the worker, from 0
    threads: int
    device: str  # "cpu", "cuda:0", ...
    log: Path  # appended to; times and hosts stand only there


# Makes a worker, which may take long: it loads the model. Picklable: a function of a module or a partial of one.
Opener = Callable[[Place], Worker]


@dataclass(frozen=True)
class Failed:
    """A task that was given up."""

    task: Task
    error: str  # of the last attempt, one line
    attempts: int


@dataclass(frozen=True)
class Progress:
    """How far a run is. A failed attempt takes its sentences back, so `sentences` may fall."""

    sentences: int  # of finished tasks and of those in work
    total_sentences: int
    tasks_done: int
    tasks_failed: int  # given up
    tasks_total: int
    workers: int  # that are open


class Executor(Protocol):
    """Has tasks done, each by one of its workers.

    A task whose worker raises, dies or falls silent is tried again, up to `MAX_ATTEMPTS` times; the rest goes on.
    """

    def run(self, open_worker: Opener, tasks: Sequence[Task], progress: Callable[[Progress], None]) -> list[Failed]:
        """Do all tasks, in any order.

        Args:
            open_worker: makes a worker, where it is to work.
            tasks: with numbers that differ.
            progress: called a few times a second, in the thread that called `run`.

        Returns:
            The tasks that were given up, by number.

        Raises:
            UserError: a worker raised it, or no worker could be opened. As with any error that is raised here, no
                worker is left.
            OSError: a worker found the disk full.
            Interrupted: by SIGINT, SIGTERM, SIGHUP or SIGUSR1.
        """


def log_path(folder: Path, number: int) -> Path:
    """The log file of the worker with this number."""
    return folder / f"worker-{number:03d}.log"
