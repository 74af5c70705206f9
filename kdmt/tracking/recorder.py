"""Passing of metrics to trackers in a thread, so that a slow or failing tracker neither delays nor ends a stage."""

from __future__ import annotations

import contextlib
import math
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

from kdmt.choices import TrackerName
from kdmt.tracking.trackers import TrackedRun, Tracker, make_trackers

_MAX_WAITING = 10_000  # records
_START_SECONDS = 30.0  # to wait for the start of all trackers
_CLOSE_SECONDS = 60.0  # to wait for what is left at the end

Warn = Callable[[str], None]  # function that takes a line for the user


@dataclass(frozen=True)
class _Record:
    step: int
    values: dict[str, float]


class Recorder:
    """Passes metrics to trackers.

    A tracker that raises an error gets no further records, and the user gets one warning. Nothing is raised.

    Args:
        names: names of the trackers.
        run: what the trackers know of the run.
        warn: function that takes a warning.
    """

    def __init__(self, names: Sequence[TrackerName], run: TrackedRun, warn: Warn) -> None:
        self._trackers: dict[TrackerName, Tracker] = make_trackers(names)
        self._run, self._warn = run, warn
        self._records: queue.Queue[_Record | None] = queue.Queue(_MAX_WAITING)
        self._is_full = False
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        with contextlib.redirect_stdout(sys.stderr):  # trackers print, and standard output is for results
            self._thread.start()
            self._started.wait(_START_SECONDS)

    def log(self, step: int, values: Mapping[str, object], *, prefix: str = "") -> None:
        """Pass the finite numbers of a record to the trackers, without waiting.

        Args:
            prefix: beginning of the names, such as `train/`.
        """
        record = _Record(step, {f"{prefix}{name}": float(value) for name, value in values.items() if _is_finite(value)})
        try:
            self._records.put_nowait(record)
        except queue.Full:
            if not self._is_full:
                self._warn(f"tracking: more than {_MAX_WAITING:,} records are waiting; further ones are left out")
            self._is_full = True

    def close(self) -> None:
        """Wait until the trackers have received everything, or for a limited time."""
        with contextlib.redirect_stdout(sys.stderr):
            with contextlib.suppress(queue.Full):
                self._records.put(None, timeout=_CLOSE_SECONDS)
            self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._warn(f"tracking: not finished after {_CLOSE_SECONDS:.0f} seconds; the last records may be missing")

    def _work(self) -> None:
        self._each(lambda tracker: tracker.start(self._run))
        self._started.set()
        while (record := self._records.get()) is not None:
            self._each(partial(_log, record))
        self._each(lambda tracker: tracker.finish())

    def _each(self, call: Callable[[Tracker], None]) -> None:
        """Call a function for each tracker that has not failed."""
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._trackers[name]
                self._warn(f"tracking: {name} failed and gets no further records: {_first_line(error)}")


def _log(record: _Record, tracker: Tracker) -> None:
    tracker.log(record.step, record.values)


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
