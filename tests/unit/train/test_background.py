"""Jobs in the background: one at a time, and no error is lost."""

from __future__ import annotations

import threading

import pytest

from kdmt.train.background import BackgroundWriter

SECONDS = 60


def test_caller_goes_on_while_a_job_runs_and_the_next_job_waits_for_it() -> None:
    writer, go_on, done = BackgroundWriter(), threading.Event(), []

    def job() -> None:
        assert go_on.wait(SECONDS)
        done.append("first")

    writer.submit(job)
    assert not done  # or this line would not be reached
    go_on.set()
    writer.submit(lambda: done.append("second"))
    assert done[0] == "first"
    writer.wait()
    assert done == ["first", "second"]
    writer.wait()  # nothing left to wait for


def failing() -> None:
    raise OSError("disk full")


def test_error_of_a_job_is_raised_by_the_next_call_once() -> None:
    writer, done = BackgroundWriter(), []
    writer.submit(failing)
    with pytest.raises(OSError, match="disk full"):
        writer.submit(lambda: done.append("not run"))
    writer.wait()
    assert not done
    writer.submit(failing)
    with pytest.raises(OSError, match="disk full"):
        writer.wait()
    writer.submit(failing)
    assert str(writer.drain()) == "disk full"
    assert writer.drain() is None
