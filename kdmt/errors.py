"""Exceptions that the command line handles."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Invalid input, with the file, line or YAML path in the message.

    The command line prints the message without a traceback and exits with code 2. Existing files are not changed.
    """


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put a place, such as the YAML path of a setting, before the message of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


_LONGEST_REASON = 300  # characters


def describe_error(error: BaseException) -> str:
    """Return the type and the message of another library's exception on one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_REASON]


class Interrupted(Exception):
    """A stop after saving, requested by a signal. The exit code is 128 plus the number of the signal."""

    def __init__(self, signal_number: int, saved: str) -> None:
        self.signal_number = signal_number
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; saved {saved}; run it again to go on")
