"""A pair of lines as cleaning rules see it: values that several rules need are computed once, when first needed."""

from __future__ import annotations

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
        signs: bytes of the line in UTF-8, without those of frequent characters. Rules about digits, markup and rare
            characters need not read a line whose signs are empty, as they are for most lines in Latin script.
        ascii_letters: number of ASCII letters.
    """

    __slots__ = ("_characters", "_words", "ascii_letters", "signs", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        data = text.encode()
        kinds = data.translate(KINDS)
        self.ascii_letters = kinds.count(LETTER)
        self.signs = data.translate(None, _FREQUENT) if SIGN in kinds else b""
        self._words: list[str] | None = None
        self._characters: frozenset[str] | None = None

    @property
    def words(self) -> list[str]:
        """Parts between spaces."""
        if self._words is None:
            self._words = self.text.replace(WORD_SPACE, " ").split(" ")
        return self._words

    @property
    def num_spaces(self) -> int:
        """Number of spaces."""
        return self.text.count(" ") + self.text.count(WORD_SPACE)

    @property
    def characters(self) -> frozenset[str]:
        """Set of the characters."""
        if self._characters is None:
            self._characters = frozenset(self.text)
        return self._characters


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
