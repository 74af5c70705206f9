"""Placeholders for lines and sentences that cannot be read, and the limit of their length."""

from __future__ import annotations

from dataclasses import dataclass

MAX_LINE_BYTES = 1_000_000  # without the end of the line


@dataclass(frozen=True)
class Unreadable:
    """Placeholder for a line that cannot be read.

    Attributes:
        reason: reason why the line cannot be read.
    """

    reason: str


TOO_LONG = Unreadable(f"longer than {MAX_LINE_BYTES:,} bytes")
NOT_UTF8 = Unreadable("not UTF-8")
