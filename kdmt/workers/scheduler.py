"""The scheduler of an executor: it assigns tasks to workers in the driver process, and replaces workers.

A `WorkerPool` contains the workers, as processes or Ray actors; `drive` schedules tasks on them.
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
from kdmt.workers.worker import WorkerError, WorkerLog, name_attempt

MAX_FAILED_OPENINGS = 3  # consecutive failures, of all workers together
SAVED = "every finished block"

_WAKE_SECONDS = 1.0  # maximum time until a signal is handled
_STOPPED_SECONDS = 5.0  # a driver that wakes up later than this was stopped, for example by Ctrl-Z


@dataclass(frozen=True)
class Started:
    """Message that the worker's process runs and begins to load the model."""


@dataclass(frozen=True)
class Opened:
    """Message that the worker is ready for tasks."""


@dataclass(frozen=True)
class Alive:
    """Message with the number of sentences that the worker has done of its task."""

    sentences: int


@dataclass(frozen=True)
class Finished:
    """Message that the worker's task is done."""


@dataclass(frozen=True)
class Lost:
    """Message that the worker's process has ended."""

    reason: str
    with_node: bool = False  # its machine is lost too: this does not count as a failure to open


Message = Started | Opened | Alive | Finished | WorkerError | Lost


class WorkerPool(Protocol):
    """Workers with numbers from 0. A worker that was killed or lost can be started again."""

    def start(self, number: int) -> None:
        """Begin to open a worker, which then sends `Started` and `Opened`."""

    def give(self, number: int, task: Task, attempt: int) -> None:
        """Send a task to an open worker, which then sends `Finished` or `WorkerError`, or is `Lost`."""

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        """Return the messages of workers as soon as there are any, or after the timeout."""

    def kill(self, number: int, *, hung: bool = False) -> None:
        """Kill a worker, and receive no more messages from it. If it hung, its stack is logged if possible."""

    def shut_down(self) -> None:
        """Let open workers exit, within a few seconds."""

    def close(self) -> None:
        """Kill all remaining workers."""


def drive(
    pool: WorkerPool,
    size: int,
    tasks: Sequence[Task],
    progress: Callable[[Progress], None],
    *,
    log_folder: Path,
    silence_seconds: float,
    opening_seconds: float,
) -> list[Failed]:
    """Run all tasks on the workers of a pool; see `Executor.run`.

    Args:
        size: number of workers.
        silence_seconds: timeout for messages of a worker that has a task.
        opening_seconds: timeout for opening a worker.
    """
    queue = TaskQueue(tasks)
    scheduler = _Scheduler(pool, size, queue, log_folder, silence_seconds, opening_seconds)
    with stop_requests() as stop:
        try:
            while not queue.is_over:
                scheduler.start_workers()
                scheduler.assign()
                for number, message in pool.wait(scheduler.timeouts.seconds_left()):
                    scheduler.handle(number, message)
                if stop.signal_number:
                    raise Interrupted(stop.signal_number, SAVED)
                scheduler.kill_silent()
                progress(queue.progress(len(scheduler.opened)))
            pool.shut_down()
        finally:
            pool.close()
    return queue.failures()


@dataclass(eq=False)  # identity as equality, since deque.remove compares entries
class _Entry:
    task: Task
    attempts: int = 0
    failed_at: set[int] = field(default_factory=set)  # numbers of the workers on which it failed
    sentences: int = 0  # number done in the attempt in progress


class TaskQueue:
    """The state of all tasks: waiting, in progress, done or failed."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._waiting = deque(_Entry(task) for task in tasks)
        self._in_progress: dict[int, _Entry] = {}  # worker -> its task
        self._failed: list[Failed] = []
        self._num_tasks = len(tasks)
        self._num_done = 0
        self._sentences_done = 0
        self._sentences = sum(task.count for task in tasks)

    @property
    def is_over(self) -> bool:
        """Return whether no task waits or is in progress."""
        return not self._waiting and not self._in_progress

    @property
    def num_waiting(self) -> int:
        """Number of waiting tasks."""
        return len(self._waiting)

    @property
    def busy(self) -> set[int]:
        """Numbers of the workers that have a task."""
        return set(self._in_progress)

    def take(self, number: int, opened: set[int]) -> tuple[Task, int] | None:
        """Return a task for an open worker and the number of its attempt, from 1; None if no task is for this worker.

        A task that failed is given to another worker, unless it has failed on all open workers.
        """
        for entry in self._waiting:
            if number not in entry.failed_at or opened <= entry.failed_at:
                self._waiting.remove(entry)
                self._in_progress[number] = entry
                entry.attempts += 1
                entry.sentences = 0
                return entry.task, entry.attempts
        return None

    def update(self, number: int, sentences: int) -> None:
        """Record the sentences that a worker has done of its task."""
        if number in self._in_progress:
            entry = self._in_progress[number]
            entry.sentences = min(sentences, entry.task.count)

    def finished(self, number: int) -> None:
        """Record that a worker's task is done."""
        entry = self._in_progress.pop(number)
        self._num_done += 1
        self._sentences_done += entry.task.count

    def failed(self, number: int, error: str) -> str:
        """Record that a worker's task failed; if attempts are left, put it at the end of the queue.

        Returns:
            The name of the attempt.
        """
        entry = self._in_progress.pop(number)
        entry.failed_at.add(number)
        if entry.attempts < MAX_ATTEMPTS:
            self._waiting.append(entry)
        else:
            self._failed.append(Failed(entry.task, error, entry.attempts))
        return name_attempt(entry.task, entry.attempts)

    def failures(self) -> list[Failed]:
        """Return the tasks that failed in all attempts, by number."""
        return sorted(self._failed, key=lambda failed: failed.task.number)

    def progress(self, workers: int) -> Progress:
        """Return the progress of the run with this number of open workers."""
        return Progress(
            sentences=self._sentences_done + sum(entry.sentences for entry in self._in_progress.values()),
            total_sentences=self._sentences,
            tasks_done=self._num_done,
            tasks_failed=len(self._failed),
            tasks_total=self._num_tasks,
            workers=workers,
        )


class Timeouts:
    """The deadline of each worker's next message. Time during which the driver was stopped does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadlines: dict[int, float] = {}
        self._expected_back = clock()

    def set(self, number: int, seconds: float) -> None:
        """Set the timeout for the next message of a worker."""
        self._deadlines[number] = self._clock() + seconds

    def cancel(self, number: int) -> None:
        """Remove the timeout of a worker."""
        self._deadlines.pop(number, None)

    def seconds_left(self) -> float:
        """Return the time until the first deadline, `_WAKE_SECONDS` at most."""
        now = self._clock()
        left = max(0.0, min([now + _WAKE_SECONDS, *self._deadlines.values()]) - now)
        self._expected_back = now + left
        return left

    def expired(self) -> list[int]:
        """Return the workers whose deadline has passed. Call it after waiting and handling the messages."""
        now = self._clock()
        late = now - self._expected_back
        if late > _STOPPED_SECONDS:
            self._deadlines = {number: deadline + late for number, deadline in self._deadlines.items()}
        return [number for number, deadline in self._deadlines.items() if deadline <= now]


class _Scheduler:
    """Scheduler that keeps as many workers open as there are tasks for, and replaces those that are lost.

    A worker is replaced after an exception too, since a process cannot continue after a CUDA error.
    """

    def __init__(
        self,
        pool: WorkerPool,
        size: int,
        queue: TaskQueue,
        log_folder: Path,
        silence_seconds: float,
        opening_seconds: float,
    ) -> None:
        self._pool = pool
        self._size = size
        self._queue = queue
        self._log_folder = log_folder
        self._silence_seconds = silence_seconds
        self._opening_seconds = opening_seconds
        self._opening: set[int] = set()
        self._closed: set[int] = set()  # workers that cannot be opened
        self._failed_openings = 0
        self._opening_error = ""
        self.opened: set[int] = set()
        self.timeouts = Timeouts()

    def start_workers(self) -> None:
        """Start workers for the waiting tasks.

        Raises:
            UserError: if no worker can be opened.
        """
        coming = len(self._opening) + len(self.opened - self._queue.busy)
        for number in range(self._size):
            if number not in self._opening | self.opened | self._closed and coming < self._queue.num_waiting:
                self._opening.add(number)
                self._pool.start(number)
                coming += 1
        if not self._opening and not self.opened:
            raise UserError(f"no worker can be opened: {self._opening_error}")

    def assign(self) -> None:
        """Give tasks to the open workers that have none."""
        for number in sorted(self.opened - self._queue.busy):
            taken = self._queue.take(number, self.opened)
            if taken is not None:
                self._pool.give(number, *taken)
                self.timeouts.set(number, self._silence_seconds)

    def handle(self, number: int, message: Message) -> None:
        """Process a message of a worker; ignore it if the worker is already lost.

        Raises:
            UserError, OSError: if the worker raised it and a retry cannot help.
        """
        if number not in self._opening | self.opened:
            return
        match message:
            case Started():
                self.timeouts.set(number, self._opening_seconds)
            case Opened():
                self._opening.remove(number)
                self.opened.add(number)
                self.timeouts.cancel(number)
                self._failed_openings = 0
            case Alive(sentences):
                self._queue.update(number, sentences)
                self.timeouts.set(number, self._silence_seconds)
            case Finished():
                self._queue.finished(number)
                self.timeouts.cancel(number)
            case WorkerError(error, final):
                if final is not None:
                    raise final
                self._lose(number, error)
            case Lost(reason, with_node):
                self._log(number, self._lose(number, reason, with_node=with_node))

    def kill_silent(self) -> None:
        """Kill the workers whose deadline has passed without a message."""
        for number in self.timeouts.expired():
            seconds = self._silence_seconds if number in self.opened else self._opening_seconds
            self._pool.kill(number, hung=True)
            self._log(number, self._lose(number, f"no message for {seconds:g} s"))

    def _lose(self, number: int, error: str, *, with_node: bool = False) -> str:
        """Remove a worker, and put its task back into the queue.

        Returns:
            A description of what happened, for the log.
        """
        self._pool.kill(number)
        self.timeouts.cancel(number)
        if number in self._opening:
            self._opening.remove(number)
            if not with_node:
                self._count_failed_opening(number, error)
            return f"while it opened: {error}"
        self.opened.remove(number)
        if number not in self._queue.busy:
            return f"while it waited: {error}"
        return f"{self._queue.failed(number, error)} failed: {error}"

    def _count_failed_opening(self, number: int, error: str) -> None:
        """Count a failed opening; after too many, stop opening this worker, while other open workers continue.

        Raises:
            UserError: if there are too many and no worker is open.
        """
        self._opening_error = error
        self._failed_openings += 1
        if self._failed_openings < MAX_FAILED_OPENINGS:
            return
        if not self.opened:
            raise UserError(f"no worker can be opened: {error}")
        self._closed.add(number)

    def _log(self, number: int, text: str) -> None:
        WorkerLog(log_path(self._log_folder, number))(f"driver: {text}")
