"""Time and memory of a command and all processes that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_INTERVAL_SECONDS = 0.5


@dataclass(frozen=True)
class Measured:
    """Time of a command, and peak memory of its process tree in bytes, read twice per second."""

    seconds: float  # wall time
    cpu_seconds: float  # CPU time of all processes, user and system
    peak_pss: int  # shared pages counted once
    peak_rss: int  # shared pages counted in each process that has them
    seen: Mapping[str, float] = field(default_factory=dict)  # name -> seconds until one of its paths was there


def run_measured(command: Sequence[str], *, signs: Mapping[str, Sequence[Path]] | None = None) -> Measured:
    """Run a command to its end, and exit if it fails.

    Args:
        signs: name -> paths, of which the first that is there shows that the command has come to a certain point.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command)
    peaks = [0, 0]
    seen: dict[str, float] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_INTERVAL_SECONDS):
            for name, paths in (signs or {}).items():
                if name not in seen and any(path.exists() for path in paths):
                    seen[name] = time.perf_counter() - started
            totals = [sum(column) for column in zip(*map(_resident_bytes, _process_tree(process.pid)), strict=True)]
            peaks[:] = map(max, peaks, totals or [0, 0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    done.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return Measured(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, peaks[0], peaks[1], seen)


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
    """Return the proportional and the resident set size of a process, 0 if it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.endswith(" kB")}
    return sizes.get("Pss", 0), sizes.get("Rss", 0)
