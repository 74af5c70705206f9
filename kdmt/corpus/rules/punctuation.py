"""Moses punctuation normalisation of training text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdmt.corpus.text import normalize_punctuation


@dataclass(frozen=True)
class Punctuation:
    """Normalise the punctuation of lines in a language by the rules of Moses."""

    language: str
    name: ClassVar[str] = "punctuation"

    def edit(self, line: str) -> str:
        """Return the line with normalised punctuation."""
        return normalize_punctuation(line, self.language)
