"""SIGINT and SIGTERM as requests to stop after the update."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class StopRequest:
    """What the signal handler leaves for the loop to find."""

    signal_number: int = 0  # 0: none came


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second one takes its usual course."""
    stop = StopRequest()
    previous: dict[int, Any] = {}

    def request(signal_number: int, _: FrameType | None) -> None:
        stop.signal_number = signal_number
        for number, handler in previous.items():
            signal.signal(number, handler)

    for watched in (signal.SIGINT, signal.SIGTERM):
        previous[watched] = signal.signal(watched, request)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
