"""The environment that tests run in: the same for every user, on every machine, in every process.

Of the user's variables those stay that say where programs and libraries are; what programs do is set here.
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

# PYTHONPATH may be where kdmt itself is, KDMT_PARITY is an argument that benchmarks/parity.py gives to tests, and a GPU
# stays visible or not
KEPT = re.compile(
    r"PATH|PYTHONPATH|VIRTUAL_ENV|TMPDIR|CXX|KDMT_PARITY|CUDA_VISIBLE_DEVICES|(LD|DYLD|PYTEST|COVERAGE|COV)_.*"
)
# a shell may have these ignored, as under nohup or in the background of a script
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1)
SET = {
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "TERM": "dumb",
    "COLUMNS": "110",
    "LINES": "24",
    "OMP_NUM_THREADS": "1",  # of each of the processes that run tests side by side
    "HF_HUB_OFFLINE": "1",
}


def hermetic(environment: Mapping[str, str], *, home: str) -> dict[str, str]:
    """Return the environment for tests that a user's environment gives."""
    kept = {name: value for name, value in environment.items() if KEPT.fullmatch(name)}
    return {**kept, **SET, "HOME": home}


def isolate(home: str) -> None:
    """Put this process, and those that it starts, into the environment for tests; call it before torch is loaded."""
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
    sys.warnoptions.clear()  # of PYTHONWARNINGS and -W
    warnings.resetwarnings()
