"""How far a stage is: through its sentences, through a download."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kdmt.terminal import printable, progress_bar

if TYPE_CHECKING:
    from kdmt.distill.executors import Progress

_LINE_EVERY_SECONDS = 10.0


@contextmanager
def sentence_progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that takes numbers of sentences as they are done; a bar on a terminal, plain lines elsewhere."""
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

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
            print(
                f"{name}: {done:,} of {total:,} sentences, {rate:.0f} sentences/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    yield advance


def count_pairs(name: str, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The same pairs; a line on standard error every ten seconds says how many have passed."""
    started = shown = time.perf_counter()
    for number, pair in enumerate(pairs, start=1):
        yield pair
        if number % 10_000 == 0 and time.perf_counter() - shown >= _LINE_EVERY_SECONDS:
            shown = time.perf_counter()
            rate = number / (shown - started)
            print(f"{name}: {number:,} pairs, {rate:,.0f} pairs/s", file=sys.stderr, flush=True)


def download_progress(say: Callable[[str], None]) -> Callable[[int, int | None], None]:
    """A function that is told the bytes that are there, and those there will be, and says so now and then."""
    shown = time.perf_counter()

    def tell(done: int, total: int | None) -> None:
        nonlocal shown
        if time.perf_counter() - shown >= _LINE_EVERY_SECONDS:
            shown = time.perf_counter()
            say(f"download: {done / 1e6:,.0f} MB" + (f" of {total / 1e6:,.0f} MB" if total is not None else ""))

    return tell


@contextmanager
def block_progress(name: str, *, before: int) -> Iterator[Callable[[Progress], None]]:
    """Give a function that takes an executor's progress: a bar on a terminal, plain lines elsewhere.

    Args:
        before: sentences that were there already: they say nothing about the speed.
    """
    if sys.stderr.isatty():
        with _block_bar(name, before) as advance:
            yield advance
        return
    started = shown = time.perf_counter()

    def tell(progress: Progress) -> None:
        nonlocal shown
        now = time.perf_counter()
        is_over = progress.tasks_done + progress.tasks_failed == progress.tasks_total
        if now - shown >= _LINE_EVERY_SECONDS or is_over:
            shown = now
            rate = progress.sentences / (now - started)
            left = (progress.total_sentences - progress.sentences) / rate if rate > 0 else 0.0
            print(
                f"{name}: {_blocks(progress, before)}, {rate:.0f} sentences/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    yield tell


@contextmanager
def _block_bar(name: str, before: int) -> Iterator[Callable[[Progress], None]]:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    description, state = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[state]}")
    with progress_bar(description, BarColumn(), state, TimeRemainingColumn()) as bar:
        task, started = bar.add_task(printable(name), total=None, state=""), time.perf_counter()

        def tell(progress: Progress) -> None:
            rate = progress.sentences / (time.perf_counter() - started)
            bar.update(
                task,
                total=progress.total_sentences,
                completed=progress.sentences,
                state=f"{_blocks(progress, before)}, {rate:.0f} sentences/s",
            )

        yield tell


def _blocks(progress: Progress, before: int) -> str:
    done, total = before + progress.sentences, before + progress.total_sentences
    failed = f" ({progress.tasks_failed:,} failed)" if progress.tasks_failed else ""
    return (
        f"{done:,} of {total:,} sentences, {progress.tasks_done:,} of {progress.tasks_total:,} blocks{failed}, "
        f"{progress.workers} worker{'s' if progress.workers != 1 else ''}"
    )
