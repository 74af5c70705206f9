"""Messages of the library: loggers below `kdmt`, silent unless the program configures logging.

The command line writes them to standard error as plain lines (`messages_on_stderr`). Other programs use the module
`logging` of the standard library, for example `logging.basicConfig(level=logging.INFO)`. Results, such as tables of
scores and translations, are not messages: commands print them to standard output.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ROOT = logging.getLogger("kdmt")
_ROOT.addHandler(logging.NullHandler())  # without it, warnings of a silent library would go to standard error


class _StderrHandler(logging.Handler):
    """Handler that writes each message as a line to the current `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; `name` is its `__name__`."""
    return logging.getLogger(name)


@contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Write messages to standard error while the body runs, and to nowhere else."""
    handler, level, propagate = _StderrHandler(), _ROOT.level, _ROOT.propagate
    _ROOT.addHandler(handler)
    _ROOT.setLevel(logging.INFO)
    _ROOT.propagate = False  # a library that configures the root logger would write them a second time
    try:
        yield
    finally:
        _ROOT.removeHandler(handler)
        _ROOT.setLevel(level)
        _ROOT.propagate = propagate


def shows_bars() -> bool:
    """Return whether progress is shown as bars: messages go to standard error, and that is a terminal."""
    return any(isinstance(handler, _StderrHandler) for handler in _ROOT.handlers) and sys.stderr.isatty()
