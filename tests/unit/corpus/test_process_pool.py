"""Tests of helper processes: calls are run in another process, which ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from operator import add
from pathlib import Path

from kdmt.corpus.process_pool import helper_process

DRIVER = """
import os, time
from kdmt.corpus.process_pool import helper_process
if __name__ == "__main__":
    with helper_process("json") as other:
        print(other.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


def test_a_call_is_run_in_another_process() -> None:
    with helper_process("json") as other:
        assert other.submit(add, 2, 3).result() == 5
        assert other.submit(os.getpid).result() != os.getpid()


def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        assert driver.stdout is not None
        child = int(driver.stdout.readline())
        assert is_alive(child)
        driver.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def is_alive(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
