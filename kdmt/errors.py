"""Exceptions that the command line handles."""

from __future__ import annotations

import signal


class UserError(Exception):
    """Invalid input, with the file, line or YAML path in the message.

    The command line prints the message without a traceback and exits with code 2. Existing files are not changed.
    """


_LONGEST_REASON = 300  # characters


def describe_error(error: BaseException) -> str:
    """Return the type and the message of another library's exception on one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_REASON]


class Interrupted(Exception):
    """A stop after saving, requested by a signal. The exit code is 128 plus the number of the signal."""

    def __init__(self, signal_number: int, saved: str) -> None:
        self.signal_number = signal_number
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; saved {saved}; run it again to go on")
