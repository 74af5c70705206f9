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


class LineText:
    """A line after all rules that change lines, with the values that rules compute from it.

    Attributes:
        text: the line.
        is_ascii: whether all characters are ASCII characters.
    """

    __slots__ = ("_characters", "_words", "is_ascii", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.is_ascii = text.isascii()
        self._words: list[str] | None = None
        self._characters: frozenset[str] | None = None

    @property
    def words(self) -> list[str]:
        """Parts between spaces."""
        if self._words is None:
            self._words = self.text.split(" ")
        return self._words

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
