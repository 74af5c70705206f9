"""The number of tokens that requests of a pipeline have used, which all workers share.

Each folder of answers has a count, to which those of other folders are added. Tokens are reserved before a request and
settled after its answer. Those of a request whose answer was lost, because the
command was killed or the connection was cut, remain reserved: the server may have charged them.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from kdmt.errors import UserError

TOKENS = "tokens"  # name of the file
_WIDTH = 20  # digits, so that each write has the same length and replaces the one before


class BudgetExceeded(Exception):
    """Error raised if a request could exceed the budget."""


@dataclass(frozen=True)
class TokenBudget:
    """A count of tokens in a file.

    Attributes:
        path: the file; a missing one counts as zero.
        limit: maximum number of tokens; None for no limit.
        used_before: number of tokens that were used elsewhere and count too.
    """

    path: Path
    limit: int | None = None
    used_before: int = 0

    def reserve(self, tokens: int) -> None:
        """Add the tokens that a request may use.

        Raises:
            BudgetExceeded: if the sum would be larger than the limit; nothing is added.
        """
        self._add(tokens, self.limit)

    def settle(self, reserved: int, used: int) -> None:
        """Replace reserved tokens by those that were used."""
        self._add(used - reserved, None)

    def used(self) -> int:
        """Return the number of tokens that are used or reserved."""
        try:
            return self.used_before + _parse(self.path.read_bytes(), self.path)
        except FileNotFoundError:
            return self.used_before

    def _add(self, tokens: int, limit: int | None) -> None:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
            total = _parse(os.pread(file, 100, 0), self.path) + tokens
            if limit is not None and self.used_before + total > limit:
                raise BudgetExceeded
            os.pwrite(file, f"{max(total, 0):0{_WIDTH}d}\n".encode(), 0)
        finally:
            os.close(file)


def _parse(data: bytes, path: Path) -> int:
    text = data.strip()
    if not text:
        return 0
    if not (text.isdigit() and len(text) <= _WIDTH):
        raise UserError(f"{path}: not a number of tokens: remove it to count those of the stored answers")
    return int(text)
