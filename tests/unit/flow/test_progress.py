"""Tests of progress messages: their frequency and their text."""

from __future__ import annotations

import pytest

from kdmt.flow import progress
from kdmt.flow.progress import count_pairs, download_progress, sentence_progress
from kdmt.log import messages_on_stderr


class Clock:
    """Clock whose time is set by the test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "perf_counter", clock)
    return clock


def test_a_message_is_printed_every_ten_seconds_and_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with messages_on_stderr(), sentence_progress("knowledge", 2000) as advance:
        for _ in range(20):
            clock.now += 1.0
            advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "knowledge: 1,000 of 2,000 sentences, 100 sentences/s, 10 s left",
        "knowledge: 2,000 of 2,000 sentences, 100 sentences/s, 0 s left",
    ]


def test_pairs_are_yielded_unchanged_and_counted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [(str(number), str(-number)) for number in range(25_000)]
    seen = []
    with messages_on_stderr():
        for pair in count_pairs("train.0", pairs):
            seen.append(pair)
            clock.now += 0.001
    assert seen == pairs
    assert capsys.readouterr().err.splitlines() == [
        "train.0: 10,000 pairs, 1,000 pairs/s",
        "train.0: 20,000 pairs, 1,000 pairs/s",
    ]


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (None, "download: 33 MB of 2 files, 2.0 MB/s"),
        (90_000_000, "download: 33 of 95 MB of 2 files, 2.0 MB/s, 31 s left"),
    ],
)
def test_downloads_are_reported_together_at_intervals(clock: Clock, total: int | None, expected: str) -> None:
    logged: list[str] = []
    with download_progress(logged.append) as report:
        report("a", 10_000_000, total)
        clock.now += 5.0
        report("b", 1_000_000, 5_000_000)
        clock.now += 6.0
        report("a", 32_000_000, total)
        report("a", 40_000_000, total)
    assert logged == [expected]
