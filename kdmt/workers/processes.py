"""Executors on this machine: in this process, or in worker processes.

For workers on many machines see `kdmt.workers.ray_actors`.
"""

from __future__ import annotations

import faulthandler
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

from kdmt.corpus.process_pool import end_with_parent
from kdmt.errors import Interrupted, UserError
from kdmt.runtime import StopRequest, core_numbers, stop_requests
from kdmt.spawn import spawn_context
from kdmt.workers.scheduler import (
    MAX_FAILED_OPENINGS,
    SAVED,
    Alive,
    Finished,
    Lost,
    Message,
    Opened,
    Started,
    TaskQueue,
    drive,
)
from kdmt.workers.tasks import Executor, Failed, Opener, Progress, Task, Worker, WorkerSpec, log_path
from kdmt.workers.worker import WorkerError, WorkerLog, do_task, open_worker, worker_environment

__all__ = ["Executor", "Failed", "Inline", "Opener", "Processes", "Progress", "Task", "Worker", "WorkerSpec"]

_REPORT_SECONDS = 0.2  # between two messages of progress
_LEAVE_SECONDS = 5.0  # timeout for the exit of a worker
_DUMP_SECONDS = 0.2  # for a stack trace
_OF_THE_DRIVER = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}  # signals that only the driver handles


@dataclass(frozen=True)
class Inline:
    """An executor with one worker in this process, which cannot be replaced after a crash or killed when it hangs."""

    threads: int
    device: str
    log_folder: Path

    def run(self, open_worker: Opener, tasks: Sequence[Task], progress: Callable[[Progress], None]) -> list[Failed]:
        """See `Executor.run`; a signal takes effect at the worker's next report of progress."""
        queue = TaskQueue(tasks)
        if queue.is_over:
            return []
        self.log_folder.mkdir(parents=True, exist_ok=True)
        spec = WorkerSpec(0, self.threads, self.device, log_path(self.log_folder, 0))
        log = WorkerLog(spec.log)
        with stop_requests() as stop:
            worker = _open_here(open_worker, spec, log)
            while (taken := queue.take(0, {0})) is not None:
                error = _do_here(worker, *taken, queue, progress, stop, log)
                if error is None:
                    queue.finished(0)
                elif error.final is not None:
                    raise error.final
                else:
                    queue.failed(0, error.message)
                progress(queue.progress(1))
                _raise_if_stopped(stop)
        return queue.failures()


class _Ended(BaseException):
    """An exception of the driver that passes through the worker's code, which must not handle it as a failure."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _open_here(opener: Opener, spec: WorkerSpec, log: WorkerLog) -> Worker:
    pickled = pickle.dumps(opener)  # as in other executors, so that an opener that cannot be pickled fails here too
    error = ""
    for _ in range(MAX_FAILED_OPENINGS):
        worker = open_worker(pickled, spec, log)
        if not isinstance(worker, WorkerError):
            return worker
        if worker.final is not None:
            raise worker.final
        error = worker.message
    raise UserError(f"no worker can be opened: {error}")


def _do_here(
    worker: Worker,
    task: Task,
    attempt: int,
    queue: TaskQueue,
    progress: Callable[[Progress], None],
    stop: StopRequest,
    log: WorkerLog,
) -> WorkerError | None:
    def report(sentences: int) -> None:
        queue.update(0, sentences)
        try:
            _raise_if_stopped(stop)
            progress(queue.progress(1))
        except Exception as error:
            raise _Ended(error) from error

    try:
        return do_task(worker, task, attempt, ProgressReporter(report), log)
    except _Ended as ended:
        raise ended.error from None


def _raise_if_stopped(stop: StopRequest) -> None:
    if stop.signal_number:
        raise Interrupted(stop.signal_number, SAVED)


class ProgressReporter:
    """Counter of the sentences of a task that reports the sum, a few times a second at most."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report
        self._sentences = 0
        self._reported = float("-inf")

    def __call__(self, sentences: int) -> None:
        self._sentences += sentences
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._report(self._sentences)


@dataclass(frozen=True)
class Processes:
    """An executor with worker processes on this machine, each on its own cores if there are enough.

    Workers ignore SIGINT and SIGHUP, which Ctrl-C and a closed terminal send to all processes: the driver handles them.
    They exit when the driver process has ended.
    """

    workers: int
    threads: int  # number of threads of each worker
    devices: Sequence[str]  # worker i is on devices[i % len(devices)]
    log_folder: Path
    silence_seconds: float
    opening_seconds: float = 600.0  # timeout for loading the model

    def run(self, open_worker: Opener, tasks: Sequence[Task], progress: Callable[[Progress], None]) -> list[Failed]:
        """See `Executor.run`."""
        if not tasks:
            return []
        self.log_folder.mkdir(parents=True, exist_ok=True)
        size = min(self.workers, len(tasks))
        specs = [
            WorkerSpec(i, self.threads, self.devices[i % len(self.devices)], log_path(self.log_folder, i))
            for i in range(size)
        ]
        return drive(
            _ProcessPool(pickle.dumps(open_worker), specs, self._cores(size)),
            size,
            tasks,
            progress,
            log_folder=self.log_folder,
            silence_seconds=self.silence_seconds,
            opening_seconds=self.opening_seconds,
        )

    def _cores(self, size: int) -> list[set[int]] | None:
        """Return the cores of each worker; None with GPUs, whose workers wait for them and need few cores."""
        if any(device.startswith("cuda") for device in self.devices):
            return None
        return share_cores(size, self.threads)


def share_cores(workers: int, threads: int) -> list[set[int]] | None:
    """Return the cores of each worker, chosen from those that this process may use; None if there are too few."""
    cores = core_numbers()
    if cores is None or workers * threads > len(cores):
        return None
    return [set(cores[i * threads : (i + 1) * threads]) for i in range(workers)]


@dataclass(frozen=True)
class _Child:
    process: SpawnProcess
    connection: Connection


class _ProcessPool:
    def __init__(self, opener: bytes, specs: Sequence[WorkerSpec], cores: list[set[int]] | None) -> None:
        self._context = spawn_context(runs_main=b"__main__" in opener)
        self._opener = opener
        self._specs = specs
        self._cores = cores
        self._children: dict[int, _Child] = {}
        self._just_started: list[tuple[int, Message]] = []

    def start(self, number: int) -> None:
        spec = self._specs[number]
        own, other = self._context.Pipe()
        cores = None if self._cores is None else self._cores[number]
        process = self._context.Process(
            target=_serve, args=(other, self._opener, spec, cores), name=f"worker-{number}", daemon=True
        )
        with _before_start(spec.threads):
            process.start()
            self._children[number] = _Child(process, own)
        other.close()
        self._just_started.append((number, Started()))

    def give(self, number: int, task: Task, attempt: int) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # `wait` returns `Lost` for this worker
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
        """Return the messages of a worker, the end of its process last."""
        child = self._children[number]
        dead = not child.process.is_alive()  # checked first: earlier messages are in the pipe
        messages: list[Message] = []
        try:
            while child.connection.poll():
                messages.append(child.connection.recv())
        except (EOFError, OSError):
            dead = True
        if dead:
            child.process.join(_LEAVE_SECONDS)  # the pipe may close shortly before the process ends
            messages.append(Lost(_describe_exit(child.process.exitcode)))
        return messages

    def kill(self, number: int, *, hung: bool = False) -> None:
        child = self._children.pop(number, None)
        if child is None:
            return
        if hung and child.process.pid is not None and child.process.is_alive():
            os.kill(child.process.pid, signal.SIGUSR1)  # the worker writes its stack to its log
            time.sleep(_DUMP_SECONDS)
        child.process.kill()
        child.connection.close()
        child.process.join(_LEAVE_SECONDS)

    def shut_down(self) -> None:
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
    """Set the environment and signal mask for the start of a child process, whose libraries read them on import."""
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


def _serve(connection: Connection, opener: bytes, spec: WorkerSpec, cores: set[int] | None) -> None:
    """Run the main function of a worker process."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    if cores is not None:
        os.sched_setaffinity(0, cores)
    with spec.log.open("a", encoding="utf-8") as stacks:
        _show_stacks(stacks)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_THE_DRIVER)
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the driver has closed its end
            _work(connection, opener, spec, WorkerLog(spec.log))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the regular exit of an interpreter that has loaded torch takes a second or more


def _work(connection: Connection, opener: bytes, spec: WorkerSpec, log: WorkerLog) -> None:
    worker = open_worker(opener, spec, log)
    if isinstance(worker, WorkerError):
        connection.send(worker)
        return
    connection.send(Opened())
    while True:
        task, attempt = connection.recv()
        error = do_task(
            worker, task, attempt, ProgressReporter(lambda sentences: connection.send(Alive(sentences))), log
        )
        connection.send(error or Finished())


def _show_stacks(file: TextIO) -> None:
    """Write the stack of this worker to its log if it crashes, or if it hangs and is about to be killed."""
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR1, file)
