"""Signals as requests, in processes of their own: what a signal does by default would end the tests."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# sends itself the signals on its command line one after the other; prints what the request says after each
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
    """Exit code, and the lines printed."""

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)  # whatever the tests were started under
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
def test_each_of_them_is_a_request(name: str) -> None:
    assert send(name) == (0, [name, "left", "True"])


@pytest.mark.parametrize("names", [("SIGHUP", "SIGHUP"), ("SIGUSR1", "SIGUSR1"), ("SIGTERM", "SIGHUP", "SIGUSR1")])
def test_the_first_one_counts_and_these_may_come_again(names: tuple[str, ...]) -> None:
    """The shell and the kernel both send SIGHUP when a terminal is closed; systemd sends it after SIGTERM."""
    assert send(*names) == (0, [*(names[0] for _ in names), "left", "True"])


def test_a_closed_terminal_and_then_the_end_of_the_session() -> None:
    assert send("SIGHUP", "SIGTERM") == (0, ["SIGHUP", "SIGHUP", "left", "True"])


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("first", [("SIGINT",), ("SIGTERM",), ("SIGUSR1", "SIGTERM")], ids=" ".join)
def test_a_second_of_these_takes_its_usual_course(first: tuple[str, ...], second: str) -> None:
    code, lines = send(*first, second)
    assert lines == [first[0] for _ in first]
    assert code == -signal.Signals[second]


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As under `nohup`."""
    assert send("SIGHUP", "SIGTERM", ignored=("SIGHUP",)) == (0, ["none", "SIGTERM", "left", "True"])
