"""Logs of a training run: `metrics.jsonl`, a progress bar on a terminal or plain lines, and optionally trackers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from kdmt.files import check_file, naming, write_text
from kdmt.log import get_logger, shows_bars
from kdmt.score.metrics import METRICS
from kdmt.terminal import printable, progress_bar
from kdmt.tracking.recorder import Recorder

_logger = get_logger(__name__)


class Progress:
    """Receiver of the figures of the training loop.

    Args:
        metrics: JSON-lines file with one object per line, of `kind` "train" or "valid". With None nothing is logged or
            shown, as on all ranks but the first.
        name: name of the model in training, for the bar and the lines.
        open_recorder: function that returns the recorder that passes the figures to trackers, for the first update
            that will be logged; None for no tracker.
        metric: validation metric that is shown besides those of kdmt, or None.
    """

    def __init__(
        self,
        metrics: Path | None,
        *,
        name: str,
        open_recorder: Callable[[int], Recorder | None] | None = None,
        metric: str | None = None,
    ) -> None:
        self.metrics = metrics
        self.metric = metric
        self.name = name
        self._open_recorder = open_recorder
        self._recorder: Recorder | None = None
        self._bar: Any = None
        self._task: Any = None
        self._figures: dict[str, float] = {}
        self._began = (time.perf_counter(), 0)  # time and update of the start
        self._total = 0

    @contextmanager
    def running(self, update: int, total: int) -> Iterator[None]:
        """Show progress from `update` to `total` while the body runs."""
        self._began, self._total = (time.perf_counter(), update), total
        if self.metrics is None or not shows_bars():
            yield
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        with progress_bar(*columns) as self._bar:
            self._task = self._bar.add_task(printable(self.name), total=total, completed=update, figures="")
            yield
        self._bar = None

    def advance(self, update: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=update)

    def log_training(self, *, update: int, **figures: float) -> None:
        self._record("train", update, figures)
        self._show({"loss": figures["loss"], "tokens_per_second": figures["tokens_per_second"]})
        if self._bar is None:
            self.note(
                f"epoch {figures['epoch']} update {update} loss {figures['loss']:.3f} nll {figures['nll']:.3f} "
                f"lr {figures['lr']:.2e} grad_norm {figures['grad_norm']:.2f} "
                f"tokens/s {figures['tokens_per_second']:.0f} left {self._time_left(update)}"
            )

    def log_validation(self, *, update: int, **figures: Any) -> None:
        self._record("valid", update, figures)
        scores: dict[str, float] = {key: figures[key] for key in (*METRICS, self.metric) if key in figures}
        self._show(scores)
        shown = _by_visible_words(figures) + "".join(f" {key} {score:.2f}" for key, score in scores.items())
        best = " (best)" if figures["best_update"] == update else f" (best at {figures['best_update']})"
        self.note(f"validation at {update}: loss {figures['loss']:.3f} nll {figures['nll']:.3f}{shown}{best}")

    def note(self, message: str) -> None:
        """Log a message, above the progress bar if there is one."""
        if self.metrics is None:
            return
        line = printable(f"{self.name}: {message}")
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            _logger.info(line)

    def cut_back(self, update: int) -> None:
        """Remove the records after `update`, which a resumed run writes again, and a last line truncated by a kill."""
        if self._open_recorder is not None:
            self.close()
            self._recorder = self._open_recorder(update + 1)
        if self.metrics is None or not self.metrics.exists():
            return
        check_file(self.metrics)
        kept, dropped = [], 0
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines, start=1):
            logged_at = _logged_at(line)
            if logged_at is not None and logged_at <= update:
                kept.append(line + "\n")
            dropped += logged_at is None and number < len(lines)  # the last line may be truncated by a kill
        if dropped:
            self.note(f"{self.metrics}: {dropped} lines are no records of training and were dropped")
        write_text(self.metrics, "".join(kept))

    def _record(self, kind: str, update: int, figures: dict[str, Any]) -> None:
        if self.metrics is None:
            return
        with naming(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "update": update, **figures}) + "\n")
        if self._recorder is not None:
            self._recorder.log(update, figures, prefix=f"{kind}/")

    def close(self) -> None:
        """Wait until the trackers have received all figures."""
        if self._recorder is not None:
            self._recorder.close()
        self._recorder = None

    def _time_left(self, update: int) -> str:
        """Return the hours and minutes to the last update, at the speed so far; `patience` may end training earlier."""
        began, first = self._began
        minutes = (self._total - update) * (time.perf_counter() - began) / max(update - first, 1) / 60
        return f"{int(minutes) // 60}:{int(minutes) % 60:02d}"

    def _show(self, figures: dict[str, float]) -> None:
        self._figures.update(figures)
        if self._bar is not None:
            text = " ".join(f"{key} {value:.2f}" for key, value in self._figures.items())
            self._bar.update(self._task, figures=text)


def _by_visible_words(figures: Mapping[str, Any]) -> str:
    """Return the negative log-likelihood of hidden words by the percentage of visible ones, if it was computed."""
    prefix = "nll_visible_"
    found = {key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)}
    if not found:
        return ""
    return f" nll at {'/'.join(found)}% visible {'/'.join(f'{value:.3f}' for value in found.values())}"


def _logged_at(line: str) -> int | None:
    """Return the update of a line of the log, None if the line is not a record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    update = record.get("update") if isinstance(record, dict) else None
    return update if type(update) is int else None
