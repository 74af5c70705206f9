"""Rules about the characters of a line: shares of letters, and characters that no text has."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import ClassVar

from kdmt.config import rules as settings
from kdmt.corpus.rules.character_class import ALPHABETIC, LETTERS, CharacterClass, native_characters
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText
from kdmt.languages import script_of

_LOST = re.compile(
    "[\ufdd0-\ufdef\ufffd-\uffff\ue000-\uf8ff\U000f0000-\U0010ffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0xF0000, 0x10000))
    + "]"
)
_MAY_BE_LOST = re.compile(b"[\xee-\xff]")  # the first bytes of these characters in UTF-8


def letter_share(line: LineText) -> float:
    """Return the share of letters and combining marks among the characters that are not spaces."""
    total = len(line.text) - line.text.count(" ")
    others = sum(map(line.text.count, LETTERS.others(line.characters) - {" "}))
    return (total - others) / total if total else 1.0


def script_share(line: LineText, script: CharacterClass) -> float:
    """Return the share of the letters that belong to a script; 1 if there are no letters.

    Args:
        script: characters that are not letters of other scripts, as `native_characters` returns them.
    """
    foreign = script.others(line.characters)
    if not foreign:
        return 1.0
    letters = len(line.text) - sum(map(line.text.count, ALPHABETIC.others(line.characters)))
    return 1.0 - sum(map(line.text.count, foreign)) / letters


def _is_mostly_ascii(line: LineText, share: float) -> bool:
    """Return whether ASCII letters alone are this share of the characters that are not spaces: a fast test."""
    return line.ascii_letters >= share * (len(line.text) - line.text.count(" "))


@dataclass(frozen=True)
class Letters:
    """Drop pairs with too few letters on a side (`kdmt.config.rules.Letters`)."""

    settings: settings.Letters
    languages: LanguagePair
    name: ClassVar[str] = "letters"

    def breaks(self, pair: PairText) -> bool:
        """Return whether the share of letters of a side is too small."""
        source, target = pair.lines
        return self._has_few(source) or self._has_few(target)

    def _has_few(self, line: LineText) -> bool:
        return not _is_mostly_ascii(line, self.settings.min) and letter_share(line) < self.settings.min


@dataclass(frozen=True)
class Script:
    """Drop pairs with too many letters of other scripts on a side (`kdmt.config.rules.Script`)."""

    settings: settings.Script
    languages: LanguagePair
    name: ClassVar[str] = "script"

    @functools.cached_property
    def scripts(self) -> tuple[CharacterClass | None, CharacterClass | None]:
        """Characters of the scripts of both languages; None for a language or script that is not known."""
        source, target = self.languages.codes or (None, None)
        return _script_of(source), _script_of(target)

    def breaks(self, pair: PairText) -> bool:
        """Return whether the share of letters of the language's script is too small on a side."""
        source, target = pair.lines
        of_source, of_target = self.scripts
        return self._is_foreign(source, of_source) or self._is_foreign(target, of_target)

    def _is_foreign(self, line: LineText, script: CharacterClass | None) -> bool:
        if script is None or (script.has_ascii_letters and _is_mostly_ascii(line, self.settings.min)):
            return False
        return script_share(line, script) < self.settings.min


def _script_of(code: str | None) -> CharacterClass | None:
    return None if code is None else native_characters(script_of(code))


@dataclass(frozen=True)
class BrokenCharacters:
    """Drop pairs with characters that stand for lost text: U+FFFD, noncharacters, private use."""

    settings: settings.NoSettings
    languages: LanguagePair
    name: ClassVar[str] = "broken_characters"

    def breaks(self, pair: PairText) -> bool:
        """Return whether a side has such a character."""
        source, target = pair.lines
        return _is_lost(source) or _is_lost(target)


def _is_lost(line: LineText) -> bool:
    return _MAY_BE_LOST.search(line.signs) is not None and _LOST.search(line.text) is not None
