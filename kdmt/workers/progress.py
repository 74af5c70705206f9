"""Progress of an executor: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from kdmt.log import get_logger, shows_bars
from kdmt.terminal import printable, progress_bar
from kdmt.workers.tasks import Progress

_logger = get_logger(__name__)
_LINE_EVERY_SECONDS = 10.0


@contextmanager
def block_progress(name: str, *, before: int) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows an executor's progress: as a bar on a terminal, as plain lines elsewhere.

    Args:
        before: number of sentences done before, which do not count for the speed.
    """
    if shows_bars():
        with _block_bar(name, before) as advance:
            yield advance
        return
    started = shown = time.perf_counter()

    def show(progress: Progress) -> None:
        nonlocal shown
        now = time.perf_counter()
        is_over = progress.tasks_done + progress.tasks_failed == progress.tasks_total
        if now - shown >= _LINE_EVERY_SECONDS or is_over:
            shown = now
            rate = progress.sentences / (now - started)
            left = (progress.total_sentences - progress.sentences) / rate if rate > 0 else 0.0
            _logger.info(f"{name}: {_blocks(progress, before)}, {rate:.0f} sentences/s, {left:.0f} s left")

    yield show


@contextmanager
def _block_bar(name: str, before: int) -> Iterator[Callable[[Progress], None]]:
    description, state = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[state]}")
    with progress_bar(description, BarColumn(), state, TimeRemainingColumn()) as bar:
        task, started = bar.add_task(printable(name), total=None, state=""), time.perf_counter()

        def show(progress: Progress) -> None:
            rate = progress.sentences / (time.perf_counter() - started)
            bar.update(
                task,
                total=progress.total_sentences,
                completed=progress.sentences,
                state=f"{_blocks(progress, before)}, {rate:.0f} sentences/s",
            )

        yield show


def _blocks(progress: Progress, before: int) -> str:
    done, total = before + progress.sentences, before + progress.total_sentences
    failed = f" ({progress.tasks_failed:,} failed)" if progress.tasks_failed else ""
    return (
        f"{done:,} of {total:,} sentences, {progress.tasks_done:,} of {progress.tasks_total:,} blocks{failed}, "
        f"{progress.workers} worker{'s' if progress.workers != 1 else ''}"
    )
