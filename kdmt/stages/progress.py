"""How far a stage is that works through a known number of sentences."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_EVERY_SECONDS = 10.0


@contextmanager
def sentence_progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that takes numbers of sentences as they are done; a bar on a terminal, plain lines elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=total)
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
