"""Executors on this machine: every task is done once, also if workers fail, and no process is left."""

from __future__ import annotations

import errno
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from executor_workers import ALWAYS, COUNT, Allocating, Scribes, make_tasks
from slow_parameters import some_of

from kdmt.errors import Interrupted, UserError
from kdmt.workers.processes import Executor, Inline, Processes, Progress, share_cores

NUM_TASKS = 6


class Watch:
    """Records the progress that an executor reports."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.reports.append(progress)


GUARD = 120.0  # seconds after which a test that waits for something fails; machines may be busy, and nothing is timed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def processes(folder: Path, workers: int = 2, silence_seconds: float = 60.0) -> Processes:
    return Processes(workers, 1, ["cpu"], folder.parent / "logs", silence_seconds)


@pytest.fixture(params=["inline", "processes"])
def executor(request: pytest.FixtureRequest, folder: Path) -> Executor:
    return Inline(1, "cpu", folder.parent / "logs") if request.param == "inline" else processes(folder)


def read_logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted((folder.parent / "logs").iterdir()))


def test_every_task_is_done_once(executor: Executor, folder: Path) -> None:
    scribes, watch = Scribes(folder), Watch()
    assert executor.run(scribes, make_tasks(NUM_TASKS)[::-1], watch) == []
    assert sorted(scribes.done()) == list(range(NUM_TASKS))
    last = watch.reports[-1]
    assert (last.sentences, last.total_sentences) == (COUNT * NUM_TASKS, COUNT * NUM_TASKS)
    assert (last.tasks_done, last.tasks_failed, last.tasks_total) == (NUM_TASKS, 0, NUM_TASKS)
    assert multiprocessing.active_children() == []
    log = read_logs(folder)
    assert log.count(" 4 sentences in ") == NUM_TASKS
    assert f"{os.uname().nodename} " in log


def test_without_tasks_no_worker_is_opened(executor: Executor, folder: Path) -> None:
    scribes = Scribes(folder, opening=("user", ALWAYS))
    assert executor.run(scribes, [], Watch()) == []
    assert list(folder.iterdir()) == []


def test_a_task_that_fails_is_tried_again_and_then_given_up(executor: Executor, folder: Path) -> None:
    scribes, watch = Scribes(folder, {0: ("raise", 1), 2: ("raise", ALWAYS)}), Watch()
    (failed,) = executor.run(scribes, make_tasks(4), watch)
    assert (failed.task.number, failed.attempts) == (2, 3)
    assert failed.error == "RuntimeError: the teacher stumbled"
    assert sorted(scribes.done()) == [0, 1, 3]
    last = watch.reports[-1]
    assert (last.sentences, last.tasks_done, last.tasks_failed) == (3 * COUNT, 3, 1)
    log = read_logs(folder)
    assert log.count("Traceback") == 4
    assert "block 2, attempt 3 of 3, failed" in log


def test_bad_input_ends_the_run(executor: Executor, folder: Path) -> None:
    scribes = Scribes(folder, {1: ("user", ALWAYS)}, seconds=0.01)
    with pytest.raises(UserError, match=r"^corpus.de: line 3 is bad$"):
        executor.run(scribes, make_tasks(200), Watch())
    assert scribes.attempts(1) == 1
    assert multiprocessing.active_children() == []


def test_a_full_disk_ends_the_run(executor: Executor, folder: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        executor.run(Scribes(folder, {1: ("full", ALWAYS)}), make_tasks(3), Watch())
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/full/000001.gz")
    assert multiprocessing.active_children() == []


def test_opening_is_tried_three_times(executor: Executor, folder: Path) -> None:
    assert executor.run(Scribes(folder, opening=("raise", 2)), make_tasks(2), Watch()) == []
    assert "cannot be opened on cpu" in read_logs(folder)


@pytest.mark.parametrize(("kind", "message"), [("raise", "the teacher stumbled"), ("user", "line 3 is bad")])
def test_workers_that_cannot_be_opened_end_the_run(executor: Executor, folder: Path, kind: str, message: str) -> None:
    scribes = Scribes(folder, opening=(kind, ALWAYS))
    with pytest.raises(UserError, match=message):
        executor.run(scribes, make_tasks(3), Watch())
    assert scribes.done() == {}
    assert multiprocessing.active_children() == []


def test_an_error_in_the_driver_is_raised(executor: Executor, folder: Path) -> None:
    def complain(progress: Progress) -> None:
        if progress.sentences:
            raise KeyError("bar")

    with pytest.raises(KeyError, match="bar"):
        executor.run(Scribes(folder, seconds=0.3), make_tasks(3), complain)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", some_of([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1], 2))
def test_a_signal_ends_the_run(executor: Executor, folder: Path, number: int) -> None:
    before = signal.getsignal(number)
    threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
    with pytest.raises(Interrupted) as caught:
        executor.run(Scribes(folder, seconds=0.3), make_tasks(200), Watch())
    assert caught.value.signal_number == number
    assert multiprocessing.active_children() == []
    assert signal.getsignal(number) == before


def test_a_worker_that_dies_costs_its_task_an_attempt(folder: Path) -> None:
    scribes = Scribes(folder, {0: ("kill", 1), 2: ("kill", ALWAYS), 3: ("exit", ALWAYS)})
    killed, left = processes(folder).run(scribes, make_tasks(5), Watch())
    assert (killed.task.number, killed.error, killed.attempts) == (2, "the worker died (signal 9)", 3)
    assert (left.task.number, left.error, left.attempts) == (3, "the worker died (exit code 3)", 3)
    assert sorted(scribes.done()) == [0, 1, 4]
    assert "driver: block 0, attempt 1 of 3, failed: the worker died (signal 9)" in read_logs(folder)
    assert multiprocessing.active_children() == []


def test_a_worker_that_hangs_is_replaced(folder: Path) -> None:
    scribes = Scribes(folder, {1: ("hang", 1)})
    assert processes(folder, silence_seconds=1.0).run(scribes, make_tasks(3), Watch()) == []
    assert sorted(scribes.done()) == [0, 1, 2]
    log = read_logs(folder)
    assert "no message for 1 s" in log
    assert "in get_into" in log  # the worker that hung


@pytest.mark.slow
def test_a_worker_that_hangs_while_it_opens_is_replaced(folder: Path) -> None:
    executor = Processes(1, 1, ["cpu"], folder.parent / "logs", silence_seconds=60.0, opening_seconds=6.0)
    assert executor.run(Scribes(folder, opening=("hang", 1)), make_tasks(2), Watch()) == []
    assert "driver: while it opened: no message for 6 s" in read_logs(folder)


def test_a_task_is_tried_by_another_worker(folder: Path) -> None:
    scribes = Scribes(folder, {0: ("raise", 1)}, seconds=0.2)
    assert processes(folder).run(scribes, make_tasks(8), Watch()) == []
    log = read_logs(folder)
    (first,) = [path.name for path in (folder.parent / "logs").iterdir() if "Traceback" in path.read_text()]
    assert log.count("block 0, attempt 2 of 3, begins") == 1
    assert int(scribes.done()[0][0]) != int(first[len("worker-") : -len(".log")])


def test_workers_have_their_own_cores_threads_and_devices(folder: Path) -> None:
    scribes = Scribes(folder, seconds=0.2)
    executor = Processes(2, 1, ["cpu", "cpu:1"], folder.parent / "logs", 60.0)
    before = dict(os.environ)
    executor.run(scribes, make_tasks(8), Watch())
    assert dict(os.environ) == before
    seen = {(int(number), cores, threads, device) for number, _, cores, threads, device in scribes.done().values()}
    allowed = sorted(os.sched_getaffinity(0))
    everything = ",".join(map(str, allowed))
    cores = [str(core) for core in allowed[:2]] if len(allowed) > 1 else [everything] * 2
    assert seen == {(0, cores[0], "1", "cpu"), (1, cores[1], "1", "cpu:1")}


def test_workers_with_a_gpu_may_use_all_cores(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    for devices, expected in ((["cpu"], [{allowed[0]}]), (["cuda:0"], None), (["cuda:0", "cuda:1"], None)):
        assert Processes(1, 1, devices, tmp_path, 60.0)._cores(1) == expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library takes no such settings")
@pytest.mark.parametrize("tunables", [None, "glibc.malloc.check=0"])
def test_workers_keep_their_memory_unless_the_user_sets_tunables(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tunables: str | None
) -> None:
    """Count page faults: 64 MiB in pages of 4 KiB are 16,384 faults each time."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if tunables is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    assert processes(folder, workers=1).run(Allocating(folder), make_tasks(1), Watch()) == []
    faults = int((folder / "faults").read_text())
    assert (faults < 2 * 16_384) == (tunables is None)


def test_cores_are_divided_in_order_if_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {9, 2, 3, 5, 8})
    assert share_cores(2, 2) == [{2, 3}, {5, 8}]
    assert share_cores(3, 2) is None


def test_there_are_no_more_workers_than_tasks(folder: Path) -> None:
    processes(folder, workers=4).run(Scribes(folder), make_tasks(1), Watch())
    assert [path.name for path in (folder.parent / "logs").iterdir()] == ["worker-000.log"]


DRIVER = """
import sys
from pathlib import Path
from executor_workers import Scribes, make_tasks
from kdmt.workers.processes import Processes

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    executor = Processes(2, 1, ["cpu"], folder.parent / "logs", 600.0)
    executor.run(Scribes(folder, seconds=600.0), make_tasks(2), lambda progress: None)
"""


@pytest.fixture
def driver(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a driver in its own process group and wait until both of its workers have a task."""
    script = folder.parent / "driver.py"
    script.write_text(DRIVER)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    driver = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env=os.environ | {"PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(list(folder.glob("attempt-*"))) == 2, seconds=GUARD)
        yield driver
    finally:
        driver.kill()
        driver.communicate()


def test_workers_end_when_the_driver_is_killed(driver: subprocess.Popen[str]) -> None:
    family = children_of(driver.pid)
    assert len(family) >= 2
    driver.kill()
    wait_until(lambda: not any(map(is_alive, family)), seconds=GUARD)


@pytest.mark.parametrize(
    "number", some_of([signal.SIGINT, signal.SIGHUP, signal.SIGUSR1], 1), ids=lambda number: number.name
)
def test_a_signal_to_the_whole_group_is_handled_by_the_driver(
    driver: subprocess.Popen[str], number: signal.Signals
) -> None:
    """Check signals as sent by Ctrl-C, a closed terminal, and a batch system that signals a whole step."""
    family = children_of(driver.pid)
    os.killpg(driver.pid, number)
    _, errors = driver.communicate(timeout=GUARD)
    assert f"Interrupted: stopped by {number.name}; saved every finished block; run it again to go on" in errors
    assert errors.count("Traceback") == 1
    wait_until(lambda: not any(map(is_alive, family)), seconds=GUARD)  # multiprocessing's own process is the last


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # an orphan in a container stays a zombie
