"""The driver's side of an executor: who does which task, who is replaced, and when it is time to give up.

A `Crew` has the workers, be they processes or Ray actors; `drive` decides what they do.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kdmt.errors import Interrupted, UserError
from kdmt.runtime import stop_requests
from kdmt.workers.tasks import MAX_ATTEMPTS, Failed, Progress, Task, log_path
from kdmt.workers.worker import Trouble, WorkerLog, name_attempt

MAX_FAILED_OPENINGS = 3  # one after the other, of all workers together
SAVED = "every finished block"

_WAKE_SECONDS = 1.0  # a signal is seen at the latest then
_ABSENT_SECONDS = 5.0  # later than this the driver itself was stopped, as by Ctrl-Z


@dataclass(frozen=True)
class Started:
    """The worker has its place and begins to open."""


@dataclass(frozen=True)
class Opened:
    """The worker is ready for tasks."""


@dataclass(frozen=True)
class Heard:
    """The worker is alive; so many sentences of its task are done."""

    sentences: int


@dataclass(frozen=True)
class Finished:
    """The worker's task is done."""


@dataclass(frozen=True)
class Died:
    """The worker is no more."""

    reason: str
    blameless: bool = False  # its machine went away: no failure to open


Message = Started | Opened | Heard | Finished | Trouble | Died


class Crew(Protocol):
    """Workers with numbers from 0. One that was killed or has died may be started again."""

    def start(self, number: int) -> None:
        """Begin to open a worker; `Started`, then `Opened` will tell."""

    def give(self, number: int, task: Task, attempt: int) -> None:
        """Have an open worker do a task; `Finished`, `Trouble` or `Died` will tell."""

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        """What workers have told: returns when there is something, or after so many seconds."""

    def kill(self, number: int, *, hung: bool = False) -> None:
        """End a worker at once; nothing more is told of it. One that hung may be asked where."""

    def dismiss(self) -> None:
        """Let open workers end in their own time, a few seconds at most."""

    def close(self) -> None:
        """Kill all that are left."""


def drive(
    crew: Crew,
    size: int,
    tasks: Sequence[Task],
    progress: Callable[[Progress], None],
    *,
    log_folder: Path,
    silence_seconds: float,
    opening_seconds: float,
) -> list[Failed]:
    """Have a crew of so many workers do all tasks; see `Executor.run`.

    Args:
        silence_seconds: a worker that tells nothing of its task for so long is killed.
        opening_seconds: as is one that has not opened by then.
    """
    ledger = Ledger(tasks)
    foreman = _Foreman(crew, size, ledger, log_folder, silence_seconds, opening_seconds)
    with stop_requests() as stop:
        try:
            while not ledger.is_over:
                foreman.fill()
                foreman.assign()
                for number, message in crew.wait(foreman.patience.seconds_left()):
                    foreman.hear(number, message)
                if stop.signal_number:
                    raise Interrupted(stop.signal_number, SAVED)
                foreman.end_silent()
                progress(ledger.progress(len(foreman.opened)))
            crew.dismiss()
        finally:
            crew.close()
    return ledger.given_up()


@dataclass(eq=False)  # a deque removes by equality
class _Entry:
    task: Task
    attempts: int = 0
    failed_at: set[int] = field(default_factory=set)  # numbers of workers
    sentences: int = 0  # of the attempt in work


class Ledger:
    """Which tasks wait, are in work, done or given up."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._waiting = deque(_Entry(task) for task in tasks)
        self._in_work: dict[int, _Entry] = {}  # by worker
        self._failed: list[Failed] = []
        self._num_tasks = len(tasks)
        self._num_done = 0
        self._sentences_done = 0
        self._sentences = sum(task.count for task in tasks)

    @property
    def is_over(self) -> bool:
        return not self._waiting and not self._in_work

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def at_work(self) -> set[int]:
        """Numbers of the workers that have a task."""
        return set(self._in_work)

    def take(self, number: int, opened: set[int]) -> tuple[Task, int] | None:
        """A task for an open worker and which attempt it is, from 1; None if what is left is for others.

        A task that failed goes to another worker, unless it has failed with all that are open.
        """
        for entry in self._waiting:
            if number not in entry.failed_at or opened <= entry.failed_at:
                self._waiting.remove(entry)
                self._in_work[number] = entry
                entry.attempts += 1
                entry.sentences = 0
                return entry.task, entry.attempts
        return None

    def heard(self, number: int, sentences: int) -> None:
        if number in self._in_work:
            entry = self._in_work[number]
            entry.sentences = min(sentences, entry.task.count)

    def finished(self, number: int) -> None:
        entry = self._in_work.pop(number)
        self._num_done += 1
        self._sentences_done += entry.task.count

    def failed(self, number: int, error: str) -> str:
        """The worker's task failed: it waits behind the others, since what ails it may pass, or is given up.

        Returns:
            The attempt's name.
        """
        entry = self._in_work.pop(number)
        entry.failed_at.add(number)
        if entry.attempts < MAX_ATTEMPTS:
            self._waiting.append(entry)
        else:
            self._failed.append(Failed(entry.task, error, entry.attempts))
        return name_attempt(entry.task, entry.attempts)

    def given_up(self) -> list[Failed]:
        return sorted(self._failed, key=lambda failed: failed.task.number)

    def progress(self, workers: int) -> Progress:
        return Progress(
            sentences=self._sentences_done + sum(entry.sentences for entry in self._in_work.values()),
            total_sentences=self._sentences,
            tasks_done=self._num_done,
            tasks_failed=len(self._failed),
            tasks_total=self._num_tasks,
            workers=workers,
        )


class Patience:
    """When each worker will have been silent for too long; while the driver itself stood still nobody was."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadlines: dict[int, float] = {}
        self._expected_back = clock()

    def wait_for(self, number: int, seconds: float) -> None:
        self._deadlines[number] = self._clock() + seconds

    def forget(self, number: int) -> None:
        self._deadlines.pop(number, None)

    def seconds_left(self) -> float:
        """Until the first deadline, `_WAKE_SECONDS` at most."""
        now = self._clock()
        left = max(0.0, min([now + _WAKE_SECONDS, *self._deadlines.values()]) - now)
        self._expected_back = now + left
        return left

    def overdue(self) -> list[int]:
        """Whose deadline is over. Asked after waiting, when what was told has been heard."""
        now = self._clock()
        absent = now - self._expected_back
        if absent > _ABSENT_SECONDS:
            self._deadlines = {number: deadline + absent for number, deadline in self._deadlines.items()}
        return [number for number, deadline in self._deadlines.items() if deadline <= now]


class _Foreman:
    """Keeps as many workers as there is work for, and replaces those that are lost.

    A worker is lost by an exception too: after a CUDA error a process does no more work.
    """

    def __init__(
        self, crew: Crew, size: int, ledger: Ledger, log_folder: Path, silence_seconds: float, opening_seconds: float
    ) -> None:
        self._crew = crew
        self._size = size
        self._ledger = ledger
        self._log_folder = log_folder
        self._silence_seconds = silence_seconds
        self._opening_seconds = opening_seconds
        self._opening: set[int] = set()
        self._closed: set[int] = set()  # places where no worker can be opened
        self._failed_openings = 0
        self._opening_error = ""
        self.opened: set[int] = set()
        self.patience = Patience()

    def fill(self) -> None:
        """Start workers for the tasks that wait.

        Raises:
            UserError: there is no place left to work.
        """
        coming = len(self._opening) + len(self.opened - self._ledger.at_work)
        for number in range(self._size):
            if number not in self._opening | self.opened | self._closed and coming < self._ledger.num_waiting:
                self._opening.add(number)
                self._crew.start(number)
                coming += 1
        if not self._opening and not self.opened:
            raise UserError(f"no worker can be opened: {self._opening_error}")

    def assign(self) -> None:
        for number in sorted(self.opened - self._ledger.at_work):
            taken = self._ledger.take(number, self.opened)
            if taken is not None:
                self._crew.give(number, *taken)
                self.patience.wait_for(number, self._silence_seconds)

    def hear(self, number: int, message: Message) -> None:
        """Act on what was told; of a worker that is lost already nothing matters.

        Raises:
            UserError, OSError: of the worker, where trying again does not help.
        """
        if number not in self._opening | self.opened:
            return
        match message:
            case Started():
                self.patience.wait_for(number, self._opening_seconds)
            case Opened():
                self._opening.remove(number)
                self.opened.add(number)
                self.patience.forget(number)
                self._failed_openings = 0
            case Heard(sentences):
                self._ledger.heard(number, sentences)
                self.patience.wait_for(number, self._silence_seconds)
            case Finished():
                self._ledger.finished(number)
                self.patience.forget(number)
            case Trouble(error, final):
                if final is not None:
                    raise final
                self._lose(number, error)
            case Died(reason, blameless):
                self._log(number, self._lose(number, reason, blameless=blameless))

    def end_silent(self) -> None:
        """Kill the workers that were not heard of for too long."""
        for number in self.patience.overdue():
            seconds = self._silence_seconds if number in self.opened else self._opening_seconds
            self._crew.kill(number, hung=True)
            self._log(number, self._lose(number, f"nothing heard for {seconds:g} s"))

    def _lose(self, number: int, error: str, *, blameless: bool = False) -> str:
        """Do without a worker, and without what it was at.

        Returns:
            What happened, for the log.
        """
        self._crew.kill(number)
        self.patience.forget(number)
        if number in self._opening:
            self._opening.remove(number)
            if not blameless:
                self._count_failed_opening(number, error)
            return f"while it opened: {error}"
        self.opened.remove(number)
        if number not in self._ledger.at_work:
            return f"while it waited: {error}"
        return f"{self._ledger.failed(number, error)} failed: {error}"

    def _count_failed_opening(self, number: int, error: str) -> None:
        """After too many failures this place is left; others that are open go on."""
        self._opening_error = error
        self._failed_openings += 1
        if self._failed_openings < MAX_FAILED_OPENINGS:
            return
        if not self.opened:
            raise UserError(f"no worker can be opened: {error}")
        self._closed.add(number)

    def _log(self, number: int, text: str) -> None:
        WorkerLog(log_path(self._log_folder, number))(f"driver: {text}")
