"""Progress of an executor as lines on standard error."""

from __future__ import annotations

import pytest

from kdmt.log import messages_on_stderr
from kdmt.workers import progress
from kdmt.workers.progress import block_progress
from kdmt.workers.tasks import Progress


def state(sentences: int, done: int, *, failed: int = 0, workers: int = 2) -> Progress:
    return Progress(
        sentences=sentences,
        total_sentences=3000,
        tasks_done=done,
        tasks_failed=failed,
        tasks_total=3,
        workers=workers,
    )


def test_lines_count_earlier_blocks_except_in_the_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 50.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    with messages_on_stderr(), block_progress("distill", before=7000) as show:
        now += 5.0
        show(state(900, 0))  # too soon for a line
        now += 5.0
        show(state(1500, 1))
        now += 10.0
        show(state(2000, 2, failed=1, workers=1))
    assert capsys.readouterr().err.splitlines() == [
        "distill: 8,500 of 10,000 sentences, 1 of 3 blocks, 2 workers, 150 sentences/s, 10 s left",
        "distill: 9,000 of 10,000 sentences, 2 of 3 blocks (1 failed), 1 worker, 100 sentences/s, 10 s left",
    ]


def test_the_last_line_is_printed_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    with messages_on_stderr(), block_progress("distill", before=0) as show:
        now += 1.0
        show(state(3000, 3))
    assert capsys.readouterr().err == (
        "distill: 3,000 of 3,000 sentences, 3 of 3 blocks, 2 workers, 3000 sentences/s, 0 s left\n"
    )
