from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from kdmt.log import messages_on_stderr
from kdmt.train.run_log import Progress

FIGURES = {"epoch": 1, "loss": 4.5, "nll": 4.25, "lr": 1e-4, "grad_norm": 2.0, "tokens_per_second": 1234.5}


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    return Progress(tmp_path / "metrics.jsonl", name="teacher")


def records(progress: Progress) -> list[dict]:
    return [json.loads(line) for line in progress.metrics.read_text().splitlines()]


def test_figures_are_written_to_the_metrics_file(progress: Progress) -> None:
    progress.log_training(update=50, **FIGURES)
    progress.log_validation(update=50, epoch=1, best_update=50, loss=4.0, nll=3.5, bleu=12.3)
    assert records(progress) == [
        {"kind": "train", "update": 50, **FIGURES},
        {"kind": "valid", "update": 50, "epoch": 1, "best_update": 50, "loss": 4.0, "nll": 3.5, "bleu": 12.3},
    ]


def test_lines_without_a_terminal(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    with messages_on_stderr(), progress.running(0, 100):
        progress.log_training(update=50, **FIGURES)
        progress.log_validation(update=50, epoch=1, best_update=50, loss=4.0, nll=3.5, bleu=12.3)
        progress.log_validation(update=100, epoch=2, best_update=50, loss=4.0, nll=3.5)
        progress.note("going on from checkpoint_50")
    captured = capsys.readouterr()
    training, best, worse, note = captured.err.splitlines()
    assert captured.out == ""
    assert training.startswith("teacher: epoch 1 update 50 loss 4.500 nll 4.250 lr 1.00e-04")
    assert best == "teacher: validation at 50: loss 4.000 nll 3.500 bleu 12.30 (best)"
    assert worse == "teacher: validation at 100: loss 4.000 nll 3.500 (best at 50)"
    assert note == "teacher: going on from checkpoint_50"


def test_loss_by_visible_words_is_part_of_the_line(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"nll_visible_10": 3.25, "nll_visible_100": 1.5}
    with messages_on_stderr(), progress.running(0, 100):
        progress.log_validation(update=50, epoch=1, best_update=50, loss=4.0, nll=3.5, bleu=12.3, **figures)
    assert capsys.readouterr().err.strip() == (
        "teacher: validation at 50: loss 4.000 nll 3.500 nll at 10/100% visible 3.250/1.500 bleu 12.30 (best)"
    )
    assert records(progress)[0].items() >= figures.items()


def test_progress_bar_on_a_terminal(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with messages_on_stderr():
        with progress.running(10, 100):
            progress.advance(49)
            progress.log_training(update=50, **FIGURES)
            progress.log_validation(update=50, epoch=1, best_update=50, loss=4.0, nll=3.5, bleu=12.3)
            progress.advance(50)
            progress.note("a [bracketed] note")
        shown = terminal.getvalue()
        assert "50/100" in shown
        assert "loss 4.50 tokens_per_second 1234.50 bleu 12.30" in shown
        assert "teacher: a [bracketed] note" in shown
        assert len(records(progress)) == 2
        progress.note("after the bar")
    assert terminal.getvalue().endswith("teacher: after the bar\n")


def write_updates(progress: Progress, *updates: int) -> None:
    for update in updates:
        progress.log_training(update=update, **FIGURES)


def test_cut_back_drops_lines_that_a_resumed_run_writes_again(progress: Progress) -> None:
    write_updates(progress, 10, 20, 30)
    before = progress.metrics.read_text().splitlines(keepends=True)
    progress.cut_back(20)
    assert progress.metrics.read_text() == "".join(before[:2])
    progress.cut_back(20)
    assert progress.metrics.read_text() == "".join(before[:2])
    progress.cut_back(0)
    assert progress.metrics.read_text() == ""
    assert [path.name for path in progress.metrics.parent.iterdir()] == ["metrics.jsonl"]


def test_cut_back_drops_a_truncated_line(progress: Progress) -> None:
    write_updates(progress, 10, 20)
    whole = progress.metrics.read_text()
    for length in range(len(whole) // 2, len(whole) - 1):
        progress.metrics.write_text(whole[:length])
        progress.cut_back(100)
        assert [record["update"] for record in records(progress)] == [10]
    write_updates(progress, 20)
    assert progress.metrics.read_text() == whole


def test_cut_back_without_a_file_makes_none(progress: Progress) -> None:
    progress.cut_back(10)
    assert not progress.metrics.exists()


class Recorded:
    """Recorder that keeps what it gets."""

    def __init__(self, first: int, calls: list[tuple[object, ...]]) -> None:
        self.calls = calls
        calls.append(("open", first))

    def log(self, step: int, values: dict[str, float], *, prefix: str) -> None:
        self.calls.append((step, prefix, values["nll"]))

    def close(self) -> None:
        self.calls.append(("close",))


def test_trackers_get_the_figures_of_the_file_from_the_update_on_that_is_logged_next(tmp_path: Path) -> None:
    calls: list[tuple[object, ...]] = []
    progress = Progress(tmp_path / "metrics.jsonl", name="x", open_recorder=lambda first: Recorded(first, calls))
    progress.cut_back(0)
    write_updates(progress, 10, 20)
    progress.close()
    progress.cut_back(10)
    write_updates(progress, 20)
    progress.close()
    logged = [(record["update"], f"{record['kind']}/", record["nll"]) for record in records(progress)]
    assert calls == [("open", 1), *logged, ("close",), ("open", 11), logged[-1], ("close",)]
