"""Time and memory of a command with all the processes that it starts."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_EVERY_SECONDS = 0.5


@dataclass(frozen=True)
class Measured:
    """A command's wall time and the peaks, in bytes, of what its process tree had in memory, read twice a second."""

    seconds: float
    peak_pss: int  # shared pages counted once
    peak_rss: int  # shared pages counted for each process that has them


def run_measured(command: Sequence[str]) -> Measured:
    """Run a command to its end; ends this process where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    peaks = [0, 0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY_SECONDS):
            totals = [sum(column) for column in zip(*map(_resident_bytes, _process_tree(process.pid)), strict=True)]
            peaks[:] = map(max, peaks, totals or [0, 0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}")
    return Measured(time.perf_counter() - started, *peaks)


def _process_tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
        for child in found:
            yield from _process_tree(int(child))


def _resident_bytes(pid: int) -> tuple[int, int]:
    """Proportional and resident set size; 0 for a process that has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.endswith(" kB")}
    return sizes.get("Pss", 0), sizes.get("Rss", 0)
