"""Repair of text in UTF-8 that was read in another encoding ("mojibake")."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import ftfy

# In such text, the first byte of a character appears as one of these letters and the next one as a character of the
# upper half of Windows-1252 (or Latin-1) or of Windows-1251. Other lines are left alone, which is much faster.
_SIGNS = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    "\u2013\u2014\u2018-\u201a\u201c-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"
    "|[\u0420\u0421\u0432][\u0080-\u00bf\u0402-\u040f\u0452-\u045f\u0490\u0491\u2013-\u203a\u20ac\u2116\u2122]"
)


@dataclass(frozen=True)
class Mojibake:
    """Repair lines that were decoded in the wrong encoding, as ftfy does, if they show signs of it."""

    name: ClassVar[str] = "mojibake"

    def edit(self, line: str) -> str:
        """Return the repaired line."""
        if line.isascii() or _SIGNS.search(line) is None:
            return line
        return ftfy.fix_encoding(line)
