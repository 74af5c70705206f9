"""Executors on this machine: in the process itself, or in processes beside it.

For workers on many machines see ray_executor.py.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TextIO

from kdmt.corpus.pool import end_with_parent
from kdmt.errors import Interrupted, UserError
from kdmt.runtime import StopRequest, core_numbers, stop_requests
from kdmt.workers.scheduler import (
    MAX_FAILED_OPENINGS,
    SAVED,
    Died,
    Finished,
    Heard,
    Ledger,
    Message,
    Opened,
    Started,
    drive,
)
from kdmt.workers.tasks import Executor, Failed, Opener, Place, Progress, Task, Worker, log_path
from kdmt.workers.worker import Trouble, WorkerLog, do_task, open_worker, worker_environment

__all__ = ["Executor", "Failed", "Inline", "Opener", "Place", "Processes", "Progress", "Task", "Worker"]

_TELL_SECONDS = 0.2  # between two messages of progress
_LEAVE_SECONDS = 5.0  # for a worker that was dismissed, or killed
_DUMP_SECONDS = 0.2  # for a stack trace
_OF_THE_DRIVER = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}  # signals that a worker leaves to it


@dataclass(frozen=True)
class Inline:
    """One worker in this process. It cannot be replaced: nothing helps against a crash or a hang."""

    threads: int
    device: str
    log_folder: Path

    def run(self, open_worker: Opener, tasks: Sequence[Task], progress: Callable[[Progress], None]) -> list[Failed]:
        """See `Executor.run`; a signal is acted upon when the worker next tells its progress."""
        ledger = Ledger(tasks)
        if ledger.is_over:
            return []
        self.log_folder.mkdir(parents=True, exist_ok=True)
        place = Place(0, self.threads, self.device, log_path(self.log_folder, 0))
        log = WorkerLog(place.log)
        with stop_requests() as stop:
            worker = _open_here(open_worker, place, log)
            while (taken := ledger.take(0, {0})) is not None:
                trouble = _do_here(worker, *taken, ledger, progress, stop, log)
                if trouble is None:
                    ledger.finished(0)
                elif trouble.final is not None:
                    raise trouble.final
                else:
                    ledger.failed(0, trouble.message)
                progress(ledger.progress(1))
                _raise_if_stopped(stop)
        return ledger.given_up()


class _Ended(BaseException):
    """Carries what the driver raised through the worker's code, which is not to take it for its own failure."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _open_here(opener: Opener, place: Place, log: WorkerLog) -> Worker:
    pickled = pickle.dumps(opener)  # as elsewhere: what cannot travel is noticed here
    error = ""
    for _ in range(MAX_FAILED_OPENINGS):
        worker = open_worker(pickled, place, log)
        if not isinstance(worker, Trouble):
            return worker
        if worker.final is not None:
            raise worker.final
        error = worker.message
    raise UserError(f"no worker can be opened: {error}")


def _do_here(
    worker: Worker,
    task: Task,
    attempt: int,
    ledger: Ledger,
    progress: Callable[[Progress], None],
    stop: StopRequest,
    log: WorkerLog,
) -> Trouble | None:
    def tell(sentences: int) -> None:
        ledger.heard(0, sentences)
        try:
            _raise_if_stopped(stop)
            progress(ledger.progress(1))
        except Exception as error:
            raise _Ended(error) from error

    try:
        return do_task(worker, task, attempt, Teller(tell), log)
    except _Ended as ended:
        raise ended.error from None


def _raise_if_stopped(stop: StopRequest) -> None:
    if stop.signal_number:
        raise Interrupted(stop.signal_number, SAVED)


class Teller:
    """Adds up the sentences of a task and tells the sum, a few times a second at most."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._sentences = 0
        self._told = float("-inf")

    def __call__(self, sentences: int) -> None:
        self._sentences += sentences
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            self._tell(self._sentences)


@dataclass(frozen=True)
class Processes:
    """Workers in processes of this machine, each on its own cores where there are enough.

    Workers ignore SIGINT and SIGHUP, which Ctrl-C and a closed terminal send to all: the driver decides. They end when
    the driver is gone.
    """

    workers: int
    threads: int  # of each
    devices: Sequence[str]  # worker i is on devices[i % len(devices)]
    log_folder: Path
    silence_seconds: float
    opening_seconds: float = 600.0  # for loading the model, of which nothing is heard

    def run(self, open_worker: Opener, tasks: Sequence[Task], progress: Callable[[Progress], None]) -> list[Failed]:
        """See `Executor.run`."""
        if not tasks:
            return []
        self.log_folder.mkdir(parents=True, exist_ok=True)
        size = min(self.workers, len(tasks))
        places = [
            Place(i, self.threads, self.devices[i % len(self.devices)], log_path(self.log_folder, i))
            for i in range(size)
        ]
        return drive(
            _ProcessCrew(pickle.dumps(open_worker), places, share_cores(size, self.threads)),
            size,
            tasks,
            progress,
            log_folder=self.log_folder,
            silence_seconds=self.silence_seconds,
            opening_seconds=self.opening_seconds,
        )


def share_cores(workers: int, threads: int) -> list[set[int]] | None:
    """The cores of each worker, of those that this process may use; None if they are too few."""
    cores = core_numbers()
    if cores is None or workers * threads > len(cores):
        return None
    return [set(cores[i * threads : (i + 1) * threads]) for i in range(workers)]


@dataclass(frozen=True)
class _Child:
    process: SpawnProcess
    connection: Connection


class _ProcessCrew:
    def __init__(self, opener: bytes, places: Sequence[Place], cores: list[set[int]] | None) -> None:
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._opener = opener
        self._places = places
        self._cores = cores
        self._children: dict[int, _Child] = {}
        self._just_started: list[tuple[int, Message]] = []

    def start(self, number: int) -> None:
        place = self._places[number]
        own, other = self._context.Pipe()
        cores = None if self._cores is None else self._cores[number]
        process = self._context.Process(
            target=_serve, args=(other, self._opener, place, cores), name=f"worker-{number}", daemon=True
        )
        with _before_start(place.threads):
            process.start()
            self._children[number] = _Child(process, own)
        other.close()
        self._just_started.append((number, Started()))

    def give(self, number: int, task: Task, attempt: int) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # that it died will be told
            self._children[number].connection.send((task, attempt))

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        messages = self._just_started
        self._just_started = []
        handles: dict[object, int] = {}
        for number, child in self._children.items():
            handles[child.connection] = handles[child.process.sentinel] = number
        ready = wait(list(handles), timeout=0.0 if messages else seconds)  # type: ignore[arg-type]
        for number in sorted({handles[handle] for handle in ready}):
            messages += [(number, message) for message in self._read(number)]
        return messages

    def _read(self, number: int) -> list[Message]:
        """What a worker has told, its death last."""
        child = self._children[number]
        dead = not child.process.is_alive()  # asked first: what it told before is in the pipe
        messages: list[Message] = []
        try:
            while child.connection.poll():
                messages.append(child.connection.recv())
        except (EOFError, OSError):
            dead = True
        if dead:
            child.process.join(_LEAVE_SECONDS)  # the pipe may be closed a moment before the end
            messages.append(Died(_describe_exit(child.process.exitcode)))
        return messages

    def kill(self, number: int, *, hung: bool = False) -> None:
        child = self._children.pop(number, None)
        if child is None:
            return
        if hung and child.process.pid is not None and child.process.is_alive():
            os.kill(child.process.pid, signal.SIGUSR1)  # its stack goes to its log
            time.sleep(_DUMP_SECONDS)
        child.process.kill()
        child.connection.close()
        child.process.join(_LEAVE_SECONDS)

    def dismiss(self) -> None:
        for child in self._children.values():
            child.connection.close()
        end = time.monotonic() + _LEAVE_SECONDS
        for child in self._children.values():
            child.process.join(max(0.0, end - time.monotonic()))

    def close(self) -> None:
        for child in self._children.values():
            child.process.kill()
        for number in list(self._children):
            self.kill(number)


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None:
        return "the worker closed its pipe"
    return f"the worker died ({f'signal {-exit_code}' if exit_code < 0 else f'exit code {exit_code}'})"


@contextmanager
def _before_start(threads: int) -> Iterator[None]:
    """What a child must find when its interpreter starts: later libraries may be loaded, and Ctrl-C may have come."""
    before = dict(os.environ)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_DRIVER)
    os.environ.update(worker_environment(threads))
    try:
        yield
    finally:
        for name in worker_environment(threads):
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _serve(connection: Connection, opener: bytes, place: Place, cores: set[int] | None) -> None:
    """The life of a worker process."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    if cores is not None:
        os.sched_setaffinity(0, cores)
    with place.log.open("a", encoding="utf-8") as stacks:
        _show_stacks(stacks)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_THE_DRIVER)
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the driver has closed its end
            _work(connection, opener, place, WorkerLog(place.log))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # to take torch apart, as the interpreter does at its end, takes a second or more


def _work(connection: Connection, opener: bytes, place: Place, log: WorkerLog) -> None:
    worker = open_worker(opener, place, log)
    if isinstance(worker, Trouble):
        connection.send(worker)
        return
    connection.send(Opened())
    while True:
        task, attempt = connection.recv()
        trouble = do_task(worker, task, attempt, Teller(lambda sentences: connection.send(Heard(sentences))), log)
        connection.send(trouble or Finished())


def _show_stacks(file: TextIO) -> None:
    """Where a worker crashed, or hangs when the driver loses its patience, goes to its log."""
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR1, file)
