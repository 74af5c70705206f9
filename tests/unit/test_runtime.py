"""Cores, threads and devices of a process; and signals as requests.

Affinity, threads and signals belong to a process, so these tests set them in child processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from kdmt import runtime
from kdmt.errors import UserError
from kdmt.ranks import Ranks
from kdmt.runtime import core_numbers, cores, cores_of_rank, devices_of, num_gpus, pick_device, stop_requests

HAS_AFFINITY = hasattr(os, "sched_setaffinity")

# ------------------------------------------------------------------------------------------------------------ cores


def in_a_process(expression: str, *, allowed: set[int] | None = None, **environment: str) -> str:
    """Return the value of an expression in a new process that may use these cores."""
    program = f"from kdmt.runtime import *\nprint(({expression}))"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        preexec_fn=None if allowed is None else lambda: os.sched_setaffinity(0, allowed),
        capture_output=True,
        text=True,
        check=True,
    )
    return finished.stdout.strip()


@pytest.mark.skipif(not HAS_AFFINITY, reason="this system has no CPU affinity")
def test_cores_follow_the_affinity() -> None:
    one = {max(os.sched_getaffinity(0))}
    assert in_a_process("cores(), core_numbers()", allowed=one) == f"(1, {list(one)})"
    assert in_a_process("cores()") == str(len(os.sched_getaffinity(0)))


def test_cores_of_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert core_numbers() is None
    assert cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # not known
    assert cores() == 1


@pytest.mark.parametrize(("ranks", "expected"), [(None, 8), ("1", 8), ("2", 4), ("3", 2), ("16", 1)])
def test_ranks_of_one_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, ranks: str | None, expected: int
) -> None:
    monkeypatch.setattr(runtime, "cores", lambda: 8)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert cores_of_rank() == expected


# ---------------------------------------------------------------------------------------------------------- threads


def test_threads_are_set_for_pytorch() -> None:
    threads = "use_threads(3), __import__('torch').get_num_threads()"
    assert in_a_process(threads) == "(3, 3)"
    assert in_a_process("use_threads(0), __import__('torch').get_num_threads()") == f"({cores()}, {cores()})"


@pytest.mark.skipif(not HAS_AFFINITY, reason="this system has no CPU affinity")
def test_threads_default_to_the_cores_of_the_rank() -> None:
    one = {min(os.sched_getaffinity(0))}
    assert in_a_process("use_threads(0)", allowed=one) == "1"
    assert in_a_process("use_threads(0)", LOCAL_WORLD_SIZE=str(cores())) == "1"


def test_denormal_numbers_become_zero() -> None:
    smallest = "float(__import__('torch').tensor(1e-38) * 1e-3)"
    assert float(in_a_process(smallest)) > 0.0
    if torch.set_flush_denormal(True):  # this machine supports it
        assert in_a_process(f"(use_threads(1), {smallest})[1]") == "0.0"


# ---------------------------------------------------------------------------------------------------------- devices


def give_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(runtime, "_DRIVERS", (Path("/"),) if count else (Path("/there/is/no/driver"),))
    monkeypatch.setattr(runtime, "configure_cuda", lambda: None)  # it changes PyTorch for the tests that follow


@pytest.mark.parametrize(
    ("gpus", "name", "rank", "expected"),
    [
        (0, "auto", Ranks(), "cpu"),
        (2, "auto", Ranks(), "cuda"),
        (2, "cpu", Ranks(), "cpu"),
        (2, "cuda:1", Ranks(), "cuda:1"),
        (2, "auto", Ranks(3, 4, 1), "cuda:1"),
        (2, "cuda", Ranks(2, 4, 0), "cuda:0"),
        (0, "auto", Ranks(1, 2, 1), "cpu"),
    ],
)
def test_a_device_by_its_name(
    monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, rank: Ranks, expected: str
) -> None:
    give_gpus(monkeypatch, gpus)
    assert pick_device(name, rank) == torch.device(expected)


@pytest.mark.parametrize(
    ("gpus", "name", "message"),
    [
        (0, "cuda", "device 'cuda': this machine has 0 of that type"),
        (2, "cuda:2", "device 'cuda:2': this machine has 2 of that type"),
        (0, "cpu:1", "device 'cpu:1': this machine has 1 of that type"),
        (2, "gpu", "device 'gpu': expected auto, cpu, cuda or cuda:<n>"),
        (2, "meta", "device 'meta': this machine has 0 of that type"),
    ],
)
def test_a_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, message: str) -> None:
    give_gpus(monkeypatch, gpus)
    with pytest.raises(UserError) as caught:
        pick_device(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("gpus", "name", "expected"),
    [
        (0, "auto", ["cpu"]),
        (3, "auto", ["cuda:0", "cuda:1", "cuda:2"]),
        (3, "cpu", ["cpu"]),
        (3, "cuda:1", ["cuda:1"]),
        (3, "cuda", ["cuda:0", "cuda:1", "cuda:2"]),
        (1, "cuda", ["cuda:0"]),
    ],
)
def test_devices_of_workers(monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, expected: list[str]) -> None:
    give_gpus(monkeypatch, gpus)
    assert devices_of(name) == expected
    assert num_gpus() == gpus


def test_without_a_driver_torch_is_not_imported() -> None:
    patch = "import kdmt.runtime, pathlib, sys; kdmt.runtime._DRIVERS = (pathlib.Path('/there/is/no/driver'),)"
    program = f"{patch}; print(kdmt.runtime.devices_of('auto'), 'torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['cpu'] False"


# ---------------------------------------------------------------------------------------------------------- signals

# sends itself the signals on its command line one after the other; prints the state of the request after each
PROGRAM = """
import os, signal, sys
from kdmt.runtime import stop_requests
with stop_requests() as stop:
    for name in sys.argv[1:]:
        os.kill(os.getpid(), signal.Signals[name])
        print(signal.Signals(stop.signal_number).name if stop.signal_number else "none", flush=True)
print("left")
print(signal.getsignal(signal.SIGHUP) == BEFORE)
""".replace("with stop", "BEFORE = signal.getsignal(signal.SIGHUP)\nwith stop", 1)


def send(*names: str, ignored: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Return the exit code and the printed lines."""

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)  # whatever the signal handlers of the test process
        for name in ignored:
            signal.signal(signal.Signals[name], signal.SIG_IGN)

    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=prepare,  # the child is a new interpreter, and this process has no threads yet
        check=False,
    )
    return finished.returncode, finished.stdout.split()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_each_signal_is_a_stop_request(name: str) -> None:
    assert send(name) == (0, [name, "left", "True"])


@pytest.mark.parametrize("names", [("SIGHUP", "SIGHUP"), ("SIGUSR1", "SIGUSR1"), ("SIGTERM", "SIGHUP", "SIGUSR1")])
def test_the_first_signal_counts_and_a_repeated_one_is_ignored(names: tuple[str, ...]) -> None:
    """Check that repeated signals of these kinds do not end the process.

    The shell and the kernel both send SIGHUP when a terminal is closed; systemd sends it after SIGTERM.
    """
    assert send(*names) == (0, [*(names[0] for _ in names), "left", "True"])


def test_sigterm_after_sighup_is_ignored() -> None:
    assert send("SIGHUP", "SIGTERM") == (0, ["SIGHUP", "SIGHUP", "left", "True"])


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("first", [("SIGINT",), ("SIGTERM",), ("SIGUSR1", "SIGTERM")], ids=" ".join)
def test_a_second_sigint_or_sigterm_ends_the_process(first: tuple[str, ...], second: str) -> None:
    code, lines = send(*first, second)
    assert lines == [first[0] for _ in first]
    assert code == -signal.Signals[second]


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """Check the behaviour under `nohup`."""
    assert send("SIGHUP", "SIGTERM", ignored=("SIGHUP",)) == (0, ["none", "SIGTERM", "left", "True"])


def test_stop_requests_have_no_effect_in_a_thread() -> None:
    before, found = signal.getsignal(signal.SIGTERM), list[int]()

    def work() -> None:
        with stop_requests() as stop:
            found.append(stop.signal_number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]
    assert signal.getsignal(signal.SIGTERM) is before


def test_without_a_signal_there_is_no_request() -> None:
    with stop_requests() as stop:
        assert stop.signal_number == 0
