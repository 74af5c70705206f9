"""Rules of every pipeline that change a line: invisible characters, Unicode normalisation, whitespace."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from kdmt.choices import UnicodeForm
from kdmt.corpus.combining import limit_marks

# Runs of control characters and of the format characters that only control the layout of text: soft hyphen, zero-width
# space, direction marks, word joiner, byte order mark, annotation marks. Control characters that are whitespace (tab,
# U+0085, ...) are not included: a later rule makes them spaces. Zero-width joiner and non-joiner are kept, because
# Persian, the scripts of India and emoji are spelled with them. Arabic and Syriac number signs, which are visible, and
# the tag characters that form flags are kept too.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]+"
)
# Invisible characters that separate the words around them: the dashes of Windows-1252 read as Latin-1, and the mark
# between a word and its annotation.
_SEPARATORS = "\x96\x97\ufffa"
_ZERO_WIDTH_SPACE = "\u200b"
# Unicode blocks of scripts of South-East Asia and Tibet, which are written without spaces between words: there a
# zero-width space separates two words. In other scripts, also in Chinese and Japanese, it only allows a line break.
_UNSPACED_BLOCKS = (
    *((0x0E00, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F), (0xA980, 0xA9FF)),
    *((0xAA60, 0xAADF), (0x11700, 0x1174F)),
)


def _is_of_word(character: str) -> bool:
    """Return whether a character is a letter, a combining mark or a digit."""
    return unicodedata.category(character)[0] in "LMN"


_UNSPACED = "".join(filter(_is_of_word, (chr(code) for a, b in _UNSPACED_BLOCKS for code in range(a, b + 1))))
_BOUNDARY = re.compile(f"(?<=[{_UNSPACED}])\u200b(?=[{_UNSPACED}])")  # the most frequent case by far


# ASCII without control characters, and single letters of Latin-1 between them: no two in a row, which may be text in a
# wrong encoding. Such text is in NFC and NFKC.
_LATIN = re.compile("[ -~]*(?:[\u00c0-\u00ff][ -~]+)*[\u00c0-\u00ff]?")


def is_plain(line: str) -> bool:
    """Return whether a fast test shows that a line needs no change: Latin text without markup and with single spaces.

    Two letters in a row that are not in ASCII make it false.
    """
    return (
        "&" not in line
        and "<" not in line
        and "  " not in line
        and line[:1] != " "
        and line[-1:] != " "
        and ((line.isascii() and line.isprintable()) or _LATIN.fullmatch(line) is not None)
    )


def remove_invisible(line: str) -> str:
    """Remove control characters (except whitespace) and invisible format characters (except joiners).

    Characters that separate two words, such as a zero-width space in Thai or Khmer, are replaced by a space.
    """
    if line.isprintable():
        return line
    if _ZERO_WIDTH_SPACE in line:
        line = _BOUNDARY.sub(" ", line)
    return _INVISIBLE.sub(_space_or_nothing, line)


def find_invisible(line: str) -> set[str]:
    """Return the characters that `remove_invisible` removes."""
    return set().union(*_INVISIBLE.findall(line))


def _space_or_nothing(match: re.Match[str]) -> str:
    line, run = match.string, match[0]
    around = line[match.start() - 1 : match.start()] + line[match.end() : match.end() + 1]
    if len(around) < 2 or not all(map(_is_of_word, around)):
        return ""
    if _ZERO_WIDTH_SPACE in run and any(character in _UNSPACED for character in around):
        return " "
    return " " if any(character in _SEPARATORS for character in run) else ""


def normalize_unicode(line: str, form: UnicodeForm) -> str:
    """Return a line in a normalisation form (Unicode Standard Annex #15), with at most 30 combining marks in a row."""
    line = limit_marks(line)
    if form == "none" or line.isascii() or unicodedata.is_normalized(form, line):
        return line
    return unicodedata.normalize(form, line)


def collapse_whitespace(line: str) -> str:
    """Return a line with one space for each run of whitespace, including no-break spaces, and none at the ends."""
    # The only whitespace in a printable line is the space.
    if line.isprintable() and "  " not in line and not line.startswith(" ") and not line.endswith(" "):
        return line
    return " ".join(line.split())


@dataclass(frozen=True)
class Invisible:
    """Remove control characters and invisible format characters (see `remove_invisible`)."""

    name: ClassVar[str] = "invisible"

    def edit(self, line: str) -> str:
        """Return the line without them."""
        return remove_invisible(line)


@dataclass(frozen=True)
class Normalization:
    """Bring a line into a Unicode normalisation form (see `normalize_unicode`)."""

    form: UnicodeForm
    name: ClassVar[str] = "unicode"

    def edit(self, line: str) -> str:
        """Return the line in the form."""
        return normalize_unicode(line, self.form)


@dataclass(frozen=True)
class Whitespace:
    """Replace each run of whitespace by one space (see `collapse_whitespace`)."""

    name: ClassVar[str] = "whitespace"

    def edit(self, line: str) -> str:
        """Return the line with single spaces."""
        return collapse_whitespace(line)
