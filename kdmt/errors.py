"""The exceptions that reach the command line."""

from __future__ import annotations

import signal


class UserError(Exception):
    """Bad input, named so that its owner can mend it: file, line or YAML path in the message.

    The command line prints the message alone and exits with code 2; nothing that existed is harmed.
    """


_LONGEST_REASON = 300  # characters


def describe_error(error: BaseException) -> str:
    """Return the type and the message of another library's exception on one line, not too long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_REASON]


class Interrupted(Exception):
    """A signal asked for a stop, and what was done so far is saved. The exit code is 128 + the signal's number."""

    def __init__(self, signal_number: int, saved: str) -> None:
        self.signal_number = signal_number
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; saved {saved}; run it again to go on")
