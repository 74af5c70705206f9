"""The recorder: metrics arrive in order, and no failure of a tracker reaches the caller."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from kdmt.tracking import recorder as recorder_module
from kdmt.tracking.recorder import Recorder
from kdmt.tracking.trackers import TrackedRun


class Kept:
    """Tracker that keeps its calls, and fails at those in `failing`."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.calls = failing, list[object]()

    def _called(self, name: str, *values: object) -> None:
        self.calls.append((name, *values))
        if name in self.failing:
            raise ConnectionError(f"no {name}\nsecond line")

    def start(self, run: TrackedRun) -> None:
        print("hello from a tracker")
        self._called("start", run.name)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._called("log", step, dict(values))

    def finish(self) -> None:
        self._called("finish")


def recorder_of(monkeypatch: pytest.MonkeyPatch, warnings: list[str], **trackers: object) -> Recorder:
    monkeypatch.setattr(recorder_module, "make_trackers", lambda _: dict(trackers))
    run = TrackedRun("toy", "teacher", Path("x"), Path("y"), {})
    return Recorder([], run, warnings.append)


def test_finite_numbers_arrive_in_order_with_their_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, warnings = Kept(), list[str]()
    recorder = recorder_of(monkeypatch, warnings, wandb=tracker)
    recorder.log(
        1, {"loss": 2.5, "epoch": 1, "nll": float("nan"), "name": "x", "flag": True, "none": None}, prefix="train/"
    )
    recorder.log(2, {"loss": float("inf")})
    recorder.close()
    logged = [("log", 1, {"train/loss": 2.5, "train/epoch": 1.0}), ("log", 2, {})]
    assert tracker.calls == [("start", "teacher"), *logged, ("finish",)]
    assert warnings == []


@pytest.mark.parametrize("failing", ["start", "log", "finish"])
def test_a_tracker_that_fails_gives_one_warning_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    bad, good, warnings = Kept(failing), Kept(), list[str]()
    recorder = recorder_of(monkeypatch, warnings, mlflow=bad, wandb=good)
    for step in range(3):
        recorder.log(step, {"x": 1})
    recorder.close()
    assert warnings == [f"tracking: mlflow failed and gets no further records: ConnectionError: no {failing}"]
    assert len(bad.calls) == {"start": 1, "log": 2, "finish": 5}[failing]
    assert len(good.calls) == 5


def test_what_trackers_print_does_not_reach_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder_of(monkeypatch, [], wandb=Kept()).close()
    print("a result")
    captured = capsys.readouterr()
    assert captured.out == "a result\n"
    assert "hello from a tracker" in captured.err


def test_a_tracker_that_hangs_delays_nothing_but_the_end_by_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    tracker, warnings = Kept(), list[str]()
    monkeypatch.setattr(tracker, "log", lambda *_: release.wait(30))
    monkeypatch.setattr(recorder_module, "_MAX_WAITING", 3)
    monkeypatch.setattr(recorder_module, "_CLOSE_SECONDS", 0.05)
    recorder = recorder_of(monkeypatch, warnings, wandb=tracker)
    for step in range(10):
        recorder.log(step, {"x": 1})
    recorder.close()
    release.set()
    assert warnings == [
        "tracking: more than 3 records are waiting; further ones are left out",
        "tracking: not finished after 0 seconds; the last records may be missing",
    ]
    assert sys.stdout is not sys.stderr
