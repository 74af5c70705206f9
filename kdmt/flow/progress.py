"""Progress of a stage: sentences, sentence pairs of a corpus, downloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

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


def download_progress(say: Callable[[str], None]) -> Callable[[int, int | None], None]:
    """Return a function that takes the number of bytes done and in total, and passes a line to `say` every 10 s."""
    shown = time.perf_counter()

    def report(done: int, total: int | None) -> None:
        nonlocal shown
        if time.perf_counter() - shown >= _LINE_EVERY_SECONDS:
            shown = time.perf_counter()
            say(f"download: {done / 1e6:,.0f} MB" + (f" of {total / 1e6:,.0f} MB" if total is not None else ""))

    return report
