"""Progress of a stage: sentences, sentence pairs of a corpus, downloads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from kdmt.log import get_logger, shows_bars
from kdmt.terminal import printable, progress_bar

_logger = get_logger(__name__)
_LINE_EVERY_SECONDS = 10.0


@contextmanager
def sentence_progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes numbers of sentences done, and shows a bar on a terminal, plain lines elsewhere."""
    if shows_bars():
        description = TextColumn("{task.description}", markup=False)
        with progress_bar(description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task(printable(name), total=total)
            yield lambda count: bar.advance(task, count)
        return
    started = shown = time.perf_counter()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        now = time.perf_counter()
        if now - shown >= _LINE_EVERY_SECONDS or done == total:
            shown = now
            rate = done / (now - started)
            left = (total - done) / rate if rate else 0.0
            _logger.info(f"{name}: {done:,} of {total:,} sentences, {rate:.0f} sentences/s, {left:.0f} s left")

    yield advance


def count_pairs(name: str, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the same pairs; log their number every ten seconds."""
    started = shown = time.perf_counter()
    for number, pair in enumerate(pairs, start=1):
        yield pair
        if number % 10_000 == 0 and time.perf_counter() - shown >= _LINE_EVERY_SECONDS:
            shown = time.perf_counter()
            rate = number / (shown - started)
            _logger.info(f"{name}: {number:,} pairs, {rate:,.0f} pairs/s")


@contextmanager
def download_progress(say: Callable[[str], None]) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield a function that takes a file's name, its bytes done and in total (None if unknown), from any thread.

    It shows one bar for all files on a terminal; elsewhere it passes a line to `say` every ten seconds.
    """
    now = time.perf_counter()
    sums = _Bytes(started=now, shown=now)
    if shows_bars():
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with progress_bar(TextColumn("{task.description}", markup=False), *columns) as bar:
            task = bar.add_task("download", total=None, visible=False)

            def show(name: str, done: int, total: int | None) -> None:
                with sums.lock:
                    sums.update(name, done, total)
                    bar.update(task, completed=sums.done, total=sums.total, visible=True)

            yield show
        return

    def report(name: str, done: int, total: int | None) -> None:
        with sums.lock:
            sums.update(name, done, total)
            if time.perf_counter() - sums.shown >= _LINE_EVERY_SECONDS:
                sums.shown = time.perf_counter()
                say(f"download: {sums.describe()}")

    yield report


@dataclass
class _Bytes:
    """Numbers of bytes of the files that are downloaded.

    Attributes:
        started: time at which the downloads began.
        shown: time of the last line.
        files: name -> bytes done and in total, None if unknown.
        present: bytes that were already there when their download began.
    """

    started: float
    shown: float
    files: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    present: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def update(self, name: str, done: int, total: int | None) -> None:
        """Set the numbers of a file."""
        if name not in self.files:
            self.present += done
        self.files[name] = (done, total)

    @property
    def done(self) -> int:
        """Number of bytes done."""
        return sum(done for done, _ in self.files.values())

    @property
    def total(self) -> int | None:
        """Number of bytes of all files; None if that of one is unknown."""
        totals = [total for _, total in self.files.values() if total is not None]
        return sum(totals) if len(totals) == len(self.files) else None

    def describe(self) -> str:
        """Return a line with the bytes done, the total and the speed."""
        done, total = self.done, self.total
        rate = (done - self.present) / (time.perf_counter() - self.started)
        of_all = f" of {total / 1e6:,.0f}" if total is not None else ""
        left = f", {(total - done) / rate:.0f} s left" if total is not None and rate > 0 else ""
        files = "1 file" if len(self.files) == 1 else f"{len(self.files)} files"
        return f"{done / 1e6:,.0f}{of_all} MB of {files}, {rate / 1e6:,.1f} MB/s{left}"
