"""Run `kdmt` as a user does, in its own process, or in the process of the tests, in a folder of the test."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import tiny_pipeline

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
TIMEOUT_SECONDS = 300  # so that a hanging process fails its test; nothing is timed


def start(folder: Path, *arguments: str | Path, sets: Iterable[str] = ()) -> subprocess.Popen[str]:
    """Start `kdmt ARGUMENTS` in a folder, with its standard streams in pipes."""
    command = [str(KDMT), *map(str, arguments), *(part for setting in sets for part in ("--set", setting))]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KDMT_")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def run(
    folder: Path, *arguments: str | Path, sets: Iterable[str] = (), stdin: str = "", code: int = 0
) -> tuple[str, str]:
    """Run a command to its end, check its exit code, and return its standard output and standard error."""
    process = start(folder, *arguments, sets=sets)
    out, err = process.communicate(stdin, timeout=TIMEOUT_SECONDS)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def run_here(
    folder: Path, *arguments: str | Path, sets: Iterable[str] = (), stdin: str = "", code: int = 0
) -> tuple[str, str]:
    """Run a command as `run` does, but in the process of the tests: to start another one takes seconds.

    Tests use this for what comes before and after the command that they test.
    """
    flags = [part for setting in sets for part in ("--set", setting)]
    with tiny_pipeline.working_in(folder):
        finished = tiny_pipeline.kdmt(*arguments, *flags, stdin=stdin.encode())
    assert finished.code == code, f"exit code {finished.code}\n{finished.out}\n{finished.err}"
    return finished.out, finished.err
