"""An executor on a Ray cluster: an actor for each device (extra `ray`).

All nodes must see the same files under the same paths: tasks carry no data, results and logs are files. kdmt must be
installed on each. Workers are pickled as usual, so that they are found by their module's name on every node.
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
from kdmt.workers.scheduler import Died, Finished, Heard, Message, Opened, Started, drive
from kdmt.workers.tasks import Failed, Opener, Place, Progress, Task, Worker, log_path
from kdmt.workers.worker import Trouble, WorkerLog, do_task, one_line, open_worker, worker_environment

_POLL_SECONDS = 0.25  # between two questions how far an actor is
_NO_NODE_SECONDS = 60.0  # a cluster that has no node for us may be about to get one
_KNOCK_SECONDS = 10.0
_MAX_MESSAGE = 500  # characters
_OBJECT_STORE_BYTES = 80 * 2**20  # the smallest that Ray allows, nearly: no data goes through it


@dataclass(frozen=True)
class RayActors:
    """Workers on the nodes of a Ray cluster, each an actor with so many CPUs, and a GPU if wanted.

    An actor that is lost, with its node or alone, is replaced where there is room. For those that find none the
    others do not wait.
    """

    workers: int | None  # None: as many as the cluster has room for when empty
    threads: int  # of each
    gpus: bool
    log_folder: Path
    silence_seconds: float
    address: str | None = None  # None: that of RAY_ADDRESS, else a Ray of our own on this machine
    opening_seconds: float = 600.0  # for loading the model, of which nothing is heard

    def run(self, open_worker: Opener, tasks: Sequence[Task], progress: Callable[[Progress], None]) -> list[Failed]:
        """See `Executor.run`.

        Raises:
            UserError: also if Ray is not installed, there is no cluster at the address, or no node of it has what a
                worker needs.
        """
        ray = import_ray(starts=not (self.address or os.environ.get("RAY_ADDRESS") or _is_joined()))
        if not tasks:
            return []
        folder = self.log_folder.resolve()  # actors have working folders of their own
        folder.mkdir(parents=True, exist_ok=True)
        with connected(ray, self.address):
            room = count_room(ray.nodes(), self.threads, self.gpus)
            if self.workers is None and not room:
                raise UserError(_describe_lack(self.threads, self.gpus))
            size = min(room if self.workers is None else self.workers, len(tasks))
            device = "cuda:0" if self.gpus else "cpu"  # of the GPUs an actor sees its own alone
            places = [Place(i, self.threads, device, log_path(folder, i)) for i in range(size)]
            return drive(
                _ActorCrew(ray, pickle.dumps(open_worker), places, gpus=self.gpus),
                size,
                tasks,
                progress,
                log_folder=folder,
                silence_seconds=self.silence_seconds,
                opening_seconds=self.opening_seconds,
            )


def _is_joined() -> bool:
    """Whether this process belongs to a cluster already, whose ways of knowing its own are not ours to change."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def import_ray(*, starts: bool) -> ModuleType:
    """The package, which is told to report no usage to its makers unless the user has set otherwise.

    Args:
        starts: a Ray of our own is to be started, which then serves only those that know its token: whoever reaches the
            ports of one without can run programs.

    Raises:
        UserError: it is not installed.
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
    """Have Ray ask for a token, by the variables that it reads when it is imported; what the user has set stays.

    The token is a new one in the environment, where Ray's own would be a file in the user's home for all times.
    """
    if os.environ.setdefault("RAY_AUTH_MODE", "token").lower() == "token" and not any(
        os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def connected(ray: Any, address: str | None) -> Iterator[None]:
    """Join a cluster, or start a Ray on this machine; leave or stop it afterwards. One that is joined already stays so.

    Raises:
        UserError: there is no cluster.
    """
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)  # Ray sets its own
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
        _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:  # another version of Ray or Python, no token
        raise UserError(f"no Ray cluster to join at {address}: {' '.join(str(error).split())[:_MAX_MESSAGE]}") from None


def _knock(address: str) -> None:
    """Ray itself tries for minutes to reach a host and port where nobody answers.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if port.isascii() and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


def count_room(nodes: Sequence[dict[str, Any]], threads: int, gpus: bool) -> int:
    """How many workers the living nodes have room for, were they empty."""
    room = 0
    for node in nodes:
        if node["Alive"]:
            resources = node["Resources"]
            by_cpu = int(resources.get("CPU", 0) // threads)
            room += min(by_cpu, int(resources.get("GPU", 0))) if gpus else by_cpu
    return room


def _describe_lack(threads: int, gpus: bool) -> str:
    return f"no node of the Ray cluster has {threads} CPUs{' and a GPU' if gpus else ''}"


class _Actor:
    """The worker's side. `heard` is asked in a thread of its own while `work` goes on in another."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)  # the driver's, by which paths are meant
        self._worker: Worker | None = None
        self._log: WorkerLog | None = None
        self._calls = 0
        self._sentences = 0

    def host(self) -> str:
        return socket.gethostname()

    def open(self, opener: bytes, place: Place) -> Trouble | None:
        self._log = WorkerLog(place.log)
        worker = open_worker(opener, place, self._log)
        if isinstance(worker, Trouble):
            return worker
        self._worker = worker
        return None

    def work(self, task: Task, attempt: int) -> Trouble | None:
        assert self._worker is not None
        assert self._log is not None
        trouble = do_task(self._worker, task, attempt, self._tell, self._log)
        self._sentences = 0  # now, not with the next task: `heard` may be asked before that begins
        return trouble

    def heard(self) -> tuple[int, int]:
        """How often progress was told in all, and the sentences of the task in work."""
        return self._calls, self._sentences

    def _tell(self, sentences: int) -> None:
        self._sentences += sentences
        self._calls += 1


@dataclass(frozen=True)
class _Seat:
    """An actor, what it is at, and the question that it has not answered yet."""

    actor: Any
    at: Literal["host", "open", "work", "nothing"]
    result: Any  # reference to what will come of it
    question: Any = None
    calls: int = 0  # of its progress, when it last answered


class _ActorCrew:
    def __init__(self, ray: Any, opener: bytes, places: Sequence[Place], *, gpus: bool) -> None:
        self._ray = ray
        self._opener = opener
        self._places = places
        self._gpus = gpus
        self._seats: dict[int, _Seat] = {}
        self._asked = 0.0
        self._hopeful_until: float | None = None

    def start(self, number: int) -> None:
        threads = self._places[number].threads
        make = self._ray.remote(concurrency_groups={"watch": 1})(_Actor).options(
            num_cpus=threads,
            num_gpus=int(self._gpus),
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": worker_environment(threads)},  # Ray's own threads give way to a node's
        )
        actor = make.remote(str(Path.cwd()))
        self._seats[number] = _Seat(actor, "host", actor.host.remote())

    def give(self, number: int, task: Task, attempt: int) -> None:
        seat = self._seats[number]
        self._seats[number] = replace(seat, at="work", result=seat.actor.work.remote(task, attempt), question=None)

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        self._check_for_nodes()
        self._ask()
        results = {seat.result: number for number, seat in self._seats.items() if seat.at != "nothing"}
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
        seat = self._seats.pop(number, None)
        if seat is not None:
            self._ray.kill(seat.actor, no_restart=True)

    def dismiss(self) -> None:
        pass  # actors have nothing to put in order

    def close(self) -> None:
        for number in list(self._seats):
            self.kill(number)

    def _ready(self, references: Sequence[Any] | dict[Any, int]) -> list[Any]:
        if not references:
            return []
        return self._ray.wait(list(references), num_returns=len(references), timeout=0)[0]

    def _ask(self) -> None:
        """Ask those at work how far they are, unless they still owe an answer."""
        now = time.monotonic()
        if now - self._asked < _POLL_SECONDS:
            return
        self._asked = now
        for number, seat in self._seats.items():
            if seat.at == "work" and seat.question is None:
                question = seat.actor.heard.options(concurrency_group="watch").remote()
                self._seats[number] = replace(seat, question=question)

    def _answers(self) -> list[tuple[int, Message]]:
        """Who has gone on since it was last asked. Who is dead is told by what it was at."""
        messages: list[tuple[int, Message]] = []
        questions = {seat.question: number for number, seat in self._seats.items() if seat.question is not None}
        for question in self._ready(questions):
            number = questions[question]
            seat = replace(self._seats[number], question=None)
            try:
                calls, sentences = self._ray.get(question)
            except self._ray.exceptions.RayError:
                calls, sentences = seat.calls, 0
            if calls != seat.calls and seat.at == "work":
                messages.append((number, Heard(sentences)))
            self._seats[number] = replace(seat, calls=calls)
        return messages

    def _follow(self, number: int) -> Message:
        """What came of what an actor was at; one that has its place is sent to open."""
        seat = self._seats[number]
        try:
            result = self._ray.get(seat.result)
        except self._ray.exceptions.RayError as error:
            return _describe_loss(error)
        if seat.at == "host":
            opening = seat.actor.open.remote(self._opener, self._places[number])
            self._seats[number] = replace(seat, at="open", result=opening)
            return Started()
        self._seats[number] = replace(seat, at="nothing", result=None)
        if result is not None:
            return result
        return Opened() if seat.at == "open" else Finished()

    def _check_for_nodes(self) -> None:
        """Give up when there has been no node for any actor for a while.

        Raises:
            UserError: nobody has a place, and no node has what a worker needs, busy or not.
        """
        now = time.monotonic()
        if any(seat.at != "host" for seat in self._seats.values()):
            self._hopeful_until = None
        elif self._hopeful_until is None:
            self._hopeful_until = now + _NO_NODE_SECONDS
        elif now > self._hopeful_until:
            threads = self._places[0].threads
            if not count_room(self._ray.nodes(), threads, self._gpus):
                raise UserError(_describe_lack(threads, self._gpus))
            self._hopeful_until = now + _NO_NODE_SECONDS


def _describe_loss(error: Exception) -> Died:
    """What Ray says of a lost actor, without its advice."""
    text = one_line(error)
    if type(error).__name__ == "ActorUnavailableError":  # the first that is heard when a node goes away
        return Died("the worker cannot be reached", blameless=True)
    if "node has died" in str(error):
        return Died("the worker's node died", blameless=True)
    detail = text.rpartition("Worker exit detail: ")[2].partition(" Some common causes")[0]
    return Died(f"the worker died ({detail})")
