"""The worker's side of an executor: errors as they are sent, and the log."""

from __future__ import annotations

import errno
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from executor_workers import COUNT, Scribes, make_tasks

from kdmt.errors import UserError
from kdmt.workers.tasks import Task, WorkerSpec
from kdmt.workers.worker import WorkerError, WorkerLog, do_task, one_line, open_worker, worker_environment


@pytest.fixture
def log(tmp_path: Path) -> WorkerLog:
    return WorkerLog(tmp_path / "worker.log")


def spec(folder: Path) -> WorkerSpec:
    return WorkerSpec(3, 1, "cpu", folder / "worker.log")


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("first\n second ")
        self.callback = lambda: None


@pytest.mark.parametrize(
    ("error", "message", "final"),
    [
        (Unpicklable(), "Unpicklable: second", None),
        (ValueError(), "ValueError", None),
        (ValueError("x" * 1000), "ValueError: " + "x" * 488, None),
        (UserError("bad line"), "bad line", UserError),
        (OSError(errno.ENOSPC, "full", Path("/a/b")), "OSError: [Errno 28] full: PosixPath('/a/b')", OSError),
        (OSError(errno.ECONNRESET, "reset"), "ConnectionResetError: [Errno 104] reset", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_are_sent_as_one_line_and_final_ones_unchanged(
    error: Exception, message: str, final: type[Exception] | None
) -> None:
    sent = pickle.loads(pickle.dumps(WorkerError.of(error)))
    assert sent.message == message
    assert len(sent.message) <= 500
    assert type(sent.final) is (type(None) if final is None else final)
    if isinstance(error, OSError) and final is not None:
        assert (sent.final.errno, sent.final.filename) == (error.errno, "/a/b")


def test_a_task_that_fails_is_logged_with_its_traceback(tmp_path: Path, log: WorkerLog) -> None:
    def worker(_: Task, progress: Callable[[int], None]) -> None:
        progress(1)
        raise RuntimeError("oh\nno")

    counted: list[int] = []
    error = do_task(worker, make_tasks(1)[0], 2, counted.append, log)
    assert error == WorkerError("RuntimeError: no")
    assert counted == [1]
    text = (tmp_path / "worker.log").read_text()
    assert "block 0, attempt 2 of 3, begins" in text
    assert "Traceback" in text
    assert 'raise RuntimeError("oh' in text
    assert re.search(rf"^\d{{4}}-\d\d-\d\dT\S+ \S+ {os.getpid()} block 0", text)


def test_a_task_that_is_done_is_logged_with_its_speed(tmp_path: Path, log: WorkerLog) -> None:
    opened = open_worker(pickle.dumps(Scribes(tmp_path)), spec(tmp_path), log)
    assert not isinstance(opened, WorkerError)
    counted: list[int] = []
    assert do_task(opened, make_tasks(1)[0], 1, counted.append, log) is None
    assert sum(counted) == COUNT
    text = (tmp_path / "worker.log").read_text()
    assert "open on cpu with 1 threads after" in text
    assert re.search(rf"block 0: {COUNT} sentences in [\d.]+ s, [\d.]+ sentences/s\n$", text)


def test_a_worker_that_cannot_be_opened_is_an_error(tmp_path: Path, log: WorkerLog) -> None:
    error = open_worker(pickle.dumps(Scribes(tmp_path, opening=("raise", 1))), spec(tmp_path), log)
    assert error == WorkerError("RuntimeError: the teacher stumbled")
    assert "cannot be opened on cpu: Traceback" in (tmp_path / "worker.log").read_text()


def test_a_log_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    WorkerLog(tmp_path / "nowhere" / "worker.log")("text")
    assert not (tmp_path / "nowhere").exists()


def test_control_characters_do_not_reach_the_log(tmp_path: Path, log: WorkerLog) -> None:
    log("a\x1b[31m\nb\tc")
    text = (tmp_path / "worker.log").read_text()
    assert "\x1b" not in text
    assert "\nb\tc\n" in text


def test_threads_are_in_the_environment_and_the_users_tunables_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert worker_environment(3)["OMP_NUM_THREADS"] == "3"
    assert "glibc.malloc.mmap_max=0" in worker_environment(3)["GLIBC_TUNABLES"]
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert worker_environment(3)["GLIBC_TUNABLES"] == "glibc.malloc.check=1"


def test_one_line_of_an_exception() -> None:
    assert one_line(KeyError("a")) == "KeyError: 'a'"
    assert one_line(ValueError("a\n\n  b  \n")) == "ValueError: b"
