"""An executor on a Ray cluster: one actor for each device (extra `ray`).

All nodes must see the same files under the same paths, since tasks contain no data, and results and logs are files.
kdmt must be installed on each node. Workers are pickled by reference, so that each node imports them from their module.
"""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from kdmt.errors import UserError
from kdmt.workers.scheduler import Alive, Finished, Lost, Message, Opened, Started, drive
from kdmt.workers.tasks import Failed, Opener, Progress, Task, Worker, WorkerSpec, log_path
from kdmt.workers.worker import WorkerError, WorkerLog, do_task, one_line, open_worker, worker_environment

_POLL_SECONDS = 0.25  # between two queries of an actor's progress
_NO_NODE_SECONDS = 60.0  # timeout for a suitable node: a cluster may be adding one
_CONNECT_SECONDS = 10.0
_MAX_MESSAGE = 500  # characters
_OBJECT_STORE_BYTES = 80 * 2**20  # close to the minimum that Ray allows: it holds no data


@dataclass(frozen=True)
class RayActors:
    """An executor whose workers are Ray actors, each with a CPU for each thread, and a GPU if `gpus` is true.

    An actor that is lost, with its node or alone, is replaced when resources are free. Actors that wait for resources
    do not delay the others.
    """

    workers: int | None  # None: as many as an idle cluster has resources for
    threads: int  # number of threads of each worker
    gpus: bool
    log_folder: Path
    silence_seconds: float
    address: str | None = None  # None: RAY_ADDRESS if set, else a new Ray on this machine
    opening_seconds: float = 600.0  # timeout for loading the model

    def run(self, open_worker: Opener, tasks: Sequence[Task], progress: Callable[[Progress], None]) -> list[Failed]:
        """See `Executor.run`.

        Raises:
            UserError: also if Ray is not installed, there is no cluster at the address, or no node has the resources
                that a worker needs.
        """
        ray = import_ray(starts=not (self.address or os.environ.get("RAY_ADDRESS") or is_joined()))
        if not tasks:
            return []
        folder = self.log_folder.resolve()  # actors have other working folders
        folder.mkdir(parents=True, exist_ok=True)
        with connected(ray, self.address):
            room = count_room(ray.nodes(), self.threads, self.gpus)
            if self.workers is None and not room:
                raise UserError(describe_lack(self.threads, self.gpus))
            size = min(room if self.workers is None else self.workers, len(tasks))
            device = "cuda:0" if self.gpus else "cpu"  # an actor sees only its own GPU
            specs = [WorkerSpec(i, self.threads, device, log_path(folder, i)) for i in range(size)]
            return drive(
                _ActorPool(ray, pickle.dumps(open_worker), specs, gpus=self.gpus),
                size,
                tasks,
                progress,
                log_folder=folder,
                silence_seconds=self.silence_seconds,
                opening_seconds=self.opening_seconds,
            )


def is_joined() -> bool:
    """Return whether this process has joined a cluster already, whose authentication must not be changed."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def import_ray(*, starts: bool) -> ModuleType:
    """Return the package `ray`, with usage statistics disabled unless the user has set otherwise.

    Args:
        starts: True if a new Ray will be started, which then requires a token: without one, anyone with access to its
            ports could run programs.

    Raises:
        UserError: if it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if starts:
        _set_token()
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed: pip install 'kdmt[ray]'") from None
    return ray


def _set_token() -> None:
    """Set the environment variables by which Ray requires a token; values that the user has set are kept.

    Ray reads them when it is imported. The token is new and exists only in the environment, while Ray by default stores
    a permanent one in the user's home folder.
    """
    if os.environ.setdefault("RAY_AUTH_MODE", "token").lower() == "token" and not any(
        os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def connected(ray: Any, address: str | None) -> Iterator[None]:
    """Join a cluster, or start Ray on this machine; afterwards leave or stop it. An existing connection is kept.

    Raises:
        UserError: if there is no cluster.
    """
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)  # Ray replaces the handler
    try:
        _connect(ray, address or os.environ.get("RAY_ADDRESS"))
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def _connect(ray: Any, address: str | None) -> None:
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "warning"}
    if address is None:
        ray.init(address="local", object_store_memory=_OBJECT_STORE_BYTES, **quiet)
        return
    if address.startswith("ray://"):
        raise UserError(
            f"{address}: Ray Client is not supported; on a machine of the cluster use its HOST:PORT or auto"
        )
    try:
        _check_reachable(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:  # another version of Ray or Python, no token
        raise UserError(f"no Ray cluster to join at {address}: {' '.join(str(error).split())[:_MAX_MESSAGE]}") from None


def _check_reachable(address: str) -> None:
    """Check that a host and port can be connected to: Ray itself tries for minutes.

    Raises:
        OSError: if the host does not answer.
    """
    host, _, port = address.rpartition(":")
    if port.isascii() and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def count_room(nodes: Sequence[dict[str, Any]], threads: int, gpus: bool) -> int:
    """Return the number of workers that the resources of all live nodes allow when the nodes are idle."""
    room = 0
    for node in nodes:
        if node["Alive"]:
            resources = node["Resources"]
            by_cpu = int(resources.get("CPU", 0) // threads)
            room += min(by_cpu, int(resources.get("GPU", 0))) if gpus else by_cpu
    return room


def describe_lack(threads: int, gpus: bool) -> str:
    return f"no node of the Ray cluster has {threads} CPUs{' and a GPU' if gpus else ''}"


class _Actor:
    """The actor that runs a worker. Ray runs `progress` in one thread while `work` runs in another."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)  # the driver's folder, since paths are relative to it
        self._worker: Worker | None = None
        self._log: WorkerLog | None = None
        self._calls = 0
        self._sentences = 0

    def host(self) -> str:
        return socket.gethostname()

    def open(self, opener: bytes, spec: WorkerSpec) -> WorkerError | None:
        self._log = WorkerLog(spec.log)
        worker = open_worker(opener, spec, self._log)
        if isinstance(worker, WorkerError):
            return worker
        self._worker = worker
        return None

    def work(self, task: Task, attempt: int) -> WorkerError | None:
        assert self._worker is not None
        assert self._log is not None
        error = do_task(self._worker, task, attempt, self._report, self._log)
        self._sentences = 0  # reset here, not in the next task: `progress` may be called before it begins
        return error

    def progress(self) -> tuple[int, int]:
        """Return the number of progress reports so far, and the number of sentences done of the current task."""
        return self._calls, self._sentences

    def _report(self, sentences: int) -> None:
        self._sentences += sentences
        self._calls += 1


@dataclass(frozen=True)
class _ActorState:
    """An actor, the call that it executes, and the progress query that it has not answered yet."""

    actor: Any
    at: Literal["host", "open", "work", "nothing"]
    result: Any  # reference to the result of the call
    query: Any = None
    calls: int = 0  # number of progress reports in its last answer


class _ActorPool:
    def __init__(self, ray: Any, opener: bytes, specs: Sequence[WorkerSpec], *, gpus: bool) -> None:
        self._ray = ray
        self._opener = opener
        self._specs = specs
        self._gpus = gpus
        self._actors: dict[int, _ActorState] = {}
        self._last_query = 0.0
        self._hopeful_until: float | None = None

    def start(self, number: int) -> None:
        threads = self._specs[number].threads
        make = self._ray.remote(concurrency_groups={"watch": 1})(_Actor).options(
            num_cpus=threads,
            num_gpus=int(self._gpus),
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": worker_environment(threads)},  # by default, Ray keeps a node's thread count
        )
        actor = make.remote(str(Path.cwd()))
        self._actors[number] = _ActorState(actor, "host", actor.host.remote())

    def give(self, number: int, task: Task, attempt: int) -> None:
        state = self._actors[number]
        self._actors[number] = replace(state, at="work", result=state.actor.work.remote(task, attempt), query=None)

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        self._check_for_nodes()
        self._query_progress()
        results = {state.result: number for number, state in self._actors.items() if state.at != "nothing"}
        seconds = min(seconds, _POLL_SECONDS)
        if results:
            self._ray.wait(list(results), num_returns=1, timeout=seconds)
        else:
            time.sleep(seconds)
        messages = self._answers()
        for result in self._ready(results):
            number = results[result]
            messages.append((number, self._follow(number)))
        return messages

    def kill(self, number: int, *, hung: bool = False) -> None:  # noqa: ARG002
        state = self._actors.pop(number, None)
        if state is not None:
            self._ray.kill(state.actor, no_restart=True)

    def shut_down(self) -> None:
        pass  # actors have nothing to clean up

    def close(self) -> None:
        for number in list(self._actors):
            self.kill(number)

    def _ready(self, references: Sequence[Any] | dict[Any, int]) -> list[Any]:
        if not references:
            return []
        return self._ray.wait(list(references), num_returns=len(references), timeout=0)[0]

    def _query_progress(self) -> None:
        """Query the progress of busy actors, unless an earlier query is unanswered."""
        now = time.monotonic()
        if now - self._last_query < _POLL_SECONDS:
            return
        self._last_query = now
        for number, state in self._actors.items():
            if state.at == "work" and state.query is None:
                query = state.actor.progress.options(concurrency_group="watch").remote()
                self._actors[number] = replace(state, query=query)

    def _answers(self) -> list[tuple[int, Message]]:
        """Return a message for each actor with new progress. Lost actors are detected by the result of their call."""
        messages: list[tuple[int, Message]] = []
        queries = {state.query: number for number, state in self._actors.items() if state.query is not None}
        for query in self._ready(queries):
            number = queries[query]
            state = replace(self._actors[number], query=None)
            try:
                calls, sentences = self._ray.get(query)
            except self._ray.exceptions.RayError:
                calls, sentences = state.calls, 0
            if calls != state.calls and state.at == "work":
                messages.append((number, Alive(sentences)))
            self._actors[number] = replace(state, calls=calls)
        return messages

    def _follow(self, number: int) -> Message:
        """Return a message for the result of an actor's call; if it is on its node now, begin to open its worker."""
        state = self._actors[number]
        try:
            result = self._ray.get(state.result)
        except self._ray.exceptions.RayError as error:
            return _describe_loss(error)
        if state.at == "host":
            opening = state.actor.open.remote(self._opener, self._specs[number])
            self._actors[number] = replace(state, at="open", result=opening)
            return Started()
        self._actors[number] = replace(state, at="nothing", result=None)
        if result is not None:
            return result
        return Opened() if state.at == "open" else Finished()

    def _check_for_nodes(self) -> None:
        """Check that actors can get a node, if none has had one for some time.

        Raises:
            UserError: if no actor has a node, and no node, busy or idle, has the resources that a worker needs.
        """
        now = time.monotonic()
        if any(state.at != "host" for state in self._actors.values()):
            self._hopeful_until = None
        elif self._hopeful_until is None:
            self._hopeful_until = now + _NO_NODE_SECONDS
        elif now > self._hopeful_until:
            threads = self._specs[0].threads
            if not count_room(self._ray.nodes(), threads, self._gpus):
                raise UserError(describe_lack(threads, self._gpus))
            self._hopeful_until = now + _NO_NODE_SECONDS


def _describe_loss(error: Exception) -> Lost:
    """Return a message with Ray's error for a lost actor, without Ray's advice."""
    text = one_line(error)
    if type(error).__name__ == "ActorUnavailableError":  # the first error when a node is lost
        return Lost("the worker cannot be reached", with_node=True)
    if "node has died" in str(error):
        return Lost("the worker's node died", with_node=True)
    detail = text.rpartition("Worker exit detail: ")[2].partition(" Some common causes")[0]
    return Lost(f"the worker died ({detail})")
