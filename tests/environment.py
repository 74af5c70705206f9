"""The environment that tests run in: the same for every user, on every machine, in every process.

Variables of the user that give the locations of programs and libraries are kept; those that change what programs do are
set here.
"""

from __future__ import annotations

import locale
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Mapping

# PYTHONPATH may give the location of kdmt itself, benchmarks/parity.py sets KDMT_PARITY for tests, and the visible
# GPUs stay the same
KEPT = re.compile(
    r"PATH|PYTHONPATH|VIRTUAL_ENV|TMPDIR|CXX|KDMT_PARITY|CUDA_VISIBLE_DEVICES|(LD|DYLD|PYTEST|COVERAGE|COV)_.*"
)
# a shell may ignore these signals, for example under nohup or for a script's background processes
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1)
SET = {
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "TERM": "dumb",
    "COLUMNS": "110",
    "LINES": "24",
    "OMP_NUM_THREADS": "1",  # threads of each process, because several processes run tests at the same time
    "HF_HUB_OFFLINE": "1",
}


def hermetic(environment: Mapping[str, str], *, home: str) -> dict[str, str]:
    """Return the environment for tests that results from a user's environment."""
    kept = {name: value for name, value in environment.items() if KEPT.fullmatch(name)}
    return {**kept, **SET, "HOME": home}


def isolate(home: str) -> None:
    """Apply the environment for tests to this process and its children; call it before torch is loaded."""
    environment = hermetic(os.environ, home=home)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    os.umask(0o022)
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    sys.warnoptions.clear()  # from PYTHONWARNINGS and -W
    warnings.resetwarnings()
