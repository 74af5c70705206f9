"""Signals as requests to stop after the update: SIGINT, SIGTERM, SIGHUP and SIGUSR1."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

# A second one of these takes its usual course: whoever sends it does not want to wait.
_IMPATIENT = (signal.SIGINT, signal.SIGTERM)
# These may come more than once for one reason: of a terminal that is closed from the shell and from the kernel.
_PATIENT = (signal.SIGHUP, signal.SIGUSR1)


@dataclass
class StopRequest:
    """What the signal handler leaves for the loop to find."""

    signal_number: int = 0  # 0: none came


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn signals into a request to stop; a second SIGINT or SIGTERM takes its usual course.

    SIGHUP stays ignored where it is ignored already, as under `nohup`.
    """
    stop = StopRequest()
    previous: dict[int, Any] = {}
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def request(signal_number: int, _: FrameType | None) -> None:
        stop.signal_number = stop.signal_number or signal_number
        if signal_number in _IMPATIENT:
            for number in _IMPATIENT:
                signal.signal(number, previous[number])
        elif signal_number == signal.SIGHUP:
            _leave_closed(terminals)

    for watched in (*_IMPATIENT, *_PATIENT):
        if watched != signal.SIGHUP or signal.getsignal(watched) != signal.SIG_IGN:
            previous[watched] = signal.signal(watched, request)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_closed(terminals: Sequence[int]) -> None:
    """Drop what is written to a terminal that is gone: an error in writing would end the run before it is saved."""
    for descriptor in terminals:
        if not os.isatty(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
