"""A pair of lines as cleaning rules see it: values that several rules need are computed once, when first needed."""

from __future__ import annotations

import functools
from dataclasses import dataclass


@dataclass(frozen=True)
class LanguagePair:
    """The languages of both sides.

    Attributes:
        spaced: whether each side is written with spaces between words.
        codes: codes of the languages; None if they are not known.
    """

    spaced: tuple[bool, bool] = (True, True)
    codes: tuple[str, str] | None = None


_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Bytes of UTF-8 that few rules look for: ASCII letters, space, frequent punctuation, and all bytes of characters up to
# U+057F, which are neither digits nor lost text, with the bytes that continue other characters.
_FREQUENT = _LETTERS + b" .,;:!?'\"()-" + bytes(range(0x80, 0xD6))
LETTER, SIGN = b"aS"
# Byte -> letter, space for another frequent byte, or sign: translation by a table is fast, that with deletion is slow.
KINDS = bytes(LETTER if byte in _LETTERS else ord(" ") if byte in _FREQUENT else SIGN for byte in range(256))
WORD_SPACE = "\u1361"  # Ethiopic wordspace, between the words of older Amharic and Tigrinya text


class LineText:
    """A line after all rules that change lines, with the values that rules compute from it.

    Attributes:
        text: the line.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def _kinds(self) -> bytes:
        return self.text.encode().translate(KINDS)

    @functools.cached_property
    def ascii_letters(self) -> int:
        """Number of ASCII letters."""
        return self._kinds.count(LETTER)

    @functools.cached_property
    def signs(self) -> bytes:
        """Bytes of the line in UTF-8, without those of frequent characters.

        Rules about digits, markup and rare characters need not read a line whose signs are empty, as they are for most
        lines in Latin script.
        """
        return self.text.encode().translate(None, _FREQUENT) if SIGN in self._kinds else b""

    @functools.cached_property
    def words(self) -> list[str]:
        """Parts between spaces."""
        return self.text.replace(WORD_SPACE, " ").split(" ")

    @property
    def num_spaces(self) -> int:
        """Number of spaces."""
        return self.text.count(" ") + self.text.count(WORD_SPACE)

    @functools.cached_property
    def characters(self) -> frozenset[str]:
        """Set of the characters."""
        return frozenset(self.text)


class PairText:
    """A pair of lines after all rules that change lines.

    Attributes:
        source, target: the lines.
    """

    __slots__ = ("_lines", "source", "target")

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self._lines: tuple[LineText, LineText] | None = None

    @property
    def lines(self) -> tuple[LineText, LineText]:
        """Both sides; equal lines share one object, so that their values are computed once."""
        if self._lines is None:
            source = LineText(self.source)
            self._lines = source, source if self.source == self.target else LineText(self.target)
        return self._lines
