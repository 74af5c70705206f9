"""The rules by which a pool of workers is scheduled, with workers whose messages are scripted."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from executor_workers import COUNT, make_tasks

from kdmt.errors import UserError
from kdmt.workers.scheduler import Alive, Finished, Lost, Message, Opened, Started, TaskQueue, Timeouts, drive
from kdmt.workers.tasks import Progress, Task
from kdmt.workers.worker import WorkerError


class ScriptedPool:
    """Answers each start and each task with the next messages from its script, or with success."""

    def __init__(self, starts: dict[int, list[list[Message]]], works: dict[int, list[list[Message]]]) -> None:
        self._starts = starts
        self._works = works
        self._messages: list[tuple[int, Message]] = []
        self.given: list[tuple[int, int, int]] = []  # worker, task, attempt
        self.started: list[int] = []
        self.killed: list[int] = []
        self.closed = False

    def start(self, number: int) -> None:
        self.started.append(number)
        self._answer(number, self._starts, number, [Started(), Opened()])

    def give(self, number: int, task: Task, attempt: int) -> None:
        self.given.append((number, task.number, attempt))
        self._answer(number, self._works, task.number, [Alive(COUNT), Finished()])

    def _answer(self, number: int, script: dict[int, list[list[Message]]], key: int, usual: list[Message]) -> None:
        queue = script.get(key, [])
        self._messages += [(number, message) for message in (queue.pop(0) if queue else usual)]

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        if not self._messages:
            time.sleep(min(seconds, 0.02))
        messages, self._messages = self._messages, []
        return messages

    def kill(self, number: int, *, hung: bool = False) -> None:  # noqa: ARG002
        self.killed.append(number)

    def shut_down(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def run(pool: ScriptedPool, size: int, num_tasks: int, folder: Path) -> tuple[list[int], list[Progress]]:
    reports: list[Progress] = []
    failed = drive(
        pool, size, make_tasks(num_tasks), reports.append, log_folder=folder, silence_seconds=0.1, opening_seconds=0.1
    )
    return [each.task.number for each in failed], reports


def test_sentences_of_a_failed_attempt_are_not_counted(tmp_path: Path) -> None:
    pool = ScriptedPool({}, {0: [[Alive(3), Alive(99)], [Alive(1), Lost("gone")]]})  # no more messages after these
    failed, reports = run(pool, 1, 1, tmp_path)
    assert failed == []
    assert [progress.sentences for progress in reports if progress.workers][:3] == [0, COUNT, COUNT]
    assert 0 in [progress.sentences for progress in reports[3:]]
    assert reports[-1].sentences == COUNT
    assert pool.given == [(0, 0, 1), (0, 0, 2), (0, 0, 3)]
    assert pool.closed


def test_a_worker_that_cannot_be_reopened_does_not_end_the_run(tmp_path: Path) -> None:
    """Check a GPU that is lost for good: its worker cannot be opened again."""
    bad: list[list[Message]] = [[Started(), Opened()], *[[Started(), WorkerError("no such device")]] * 9]
    pool = ScriptedPool({1: bad}, {1: [[Lost("gone")]], 2: [[Alive(1)]] * 2})
    failed, reports = run(pool, 2, 8, tmp_path)
    assert failed == []
    assert reports[-1].tasks_done == 8
    assert pool.started.count(1) <= 1 + 3 * 3  # three failures after each success


def test_a_run_ends_when_no_worker_can_be_reopened(tmp_path: Path) -> None:
    bad: list[list[Message]] = [[Started(), Opened()], *[[Started(), WorkerError("no such device")]] * 9]
    pool = ScriptedPool({0: list(bad), 1: list(bad)}, {0: [[Lost("gone")]], 1: [[], []]})
    with pytest.raises(UserError, match="no worker can be opened: no such device"):
        run(pool, 2, 3, tmp_path)
    assert pool.closed


def test_a_lost_node_is_not_a_failure_to_open(tmp_path: Path) -> None:
    pool = ScriptedPool({0: [[Lost("node", with_node=True)]] * 5}, {})
    assert run(pool, 1, 1, tmp_path)[0] == []
    assert len(pool.started) == 6


def test_a_worker_that_waits_for_resources_has_no_timeout(tmp_path: Path) -> None:
    """Check that no timeout runs before a worker has started."""
    pool = ScriptedPool({1: [[]]}, {})
    failed, reports = run(pool, 2, 3, tmp_path)
    assert failed == []
    assert reports[-1].workers == 1
    assert pool.killed == []


def test_messages_of_a_lost_worker_are_ignored(tmp_path: Path) -> None:
    pool = ScriptedPool({}, {0: [[WorkerError("oh"), Finished(), Lost("gone")]]})
    failed, reports = run(pool, 1, 1, tmp_path)
    assert failed == []
    assert reports[-1].tasks_done == 1
    assert [attempt for _, _, attempt in pool.given] == [1, 2]


def test_a_task_goes_to_another_worker_unless_all_have_failed() -> None:
    queue = TaskQueue(make_tasks(1))
    assert queue.take(0, {0, 1}) is not None
    queue.failed(0, "")
    assert queue.take(0, {0, 1}) is None
    taken = queue.take(1, {0, 1})
    assert taken is not None
    assert taken[1] == 2
    queue.failed(1, "")
    assert queue.take(0, {0, 1}) is not None
    queue.failed(0, "last")
    assert queue.is_over
    assert [(each.error, each.attempts) for each in queue.failures()] == [("last", 3)]


def test_time_while_the_driver_is_stopped_is_not_counted_as_silence() -> None:
    now = 0.0
    timeouts = Timeouts(lambda: now)
    timeouts.set(0, 10.0)
    timeouts.set(1, 1.0)
    assert timeouts.seconds_left() == 1.0
    now = 1.5
    assert timeouts.expired() == [1]
    timeouts.cancel(1)
    timeouts.seconds_left()
    now = 600.0  # Ctrl-Z, fg
    assert timeouts.expired() == []
    timeouts.seconds_left()
    now = 601.0
    assert timeouts.expired() == []
    now = 612.0 - 2.0
    timeouts.seconds_left()
    assert timeouts.expired() == [0]


def test_no_limit_on_silence() -> None:
    now = 0.0
    timeouts = Timeouts(lambda: now)
    timeouts.set(0, math.inf)
    for later in (1e3, 1e9):
        now = later
        assert 0 < timeouts.seconds_left() < 1e4
        assert timeouts.expired() == []
