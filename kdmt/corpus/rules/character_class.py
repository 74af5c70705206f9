"""Classes of characters by Unicode property, with fast tests of whole lines."""

from __future__ import annotations

import functools

import regex

# ISO 15924 codes of scripts that are combinations of scripts of Unicode
_COMBINED = {
    "Jpan": ("Hani", "Hira", "Kana"),
    "Hrkt": ("Hira", "Kana"),
    "Kore": ("Hang", "Hani"),
    "Hans": ("Hani", "Bopo"),
    "Hant": ("Hani", "Bopo"),
}


class CharacterClass:
    """The characters that match a regular expression; each character is looked up once.

    Args:
        pattern: regular expression of the module `regex` that matches one character.

    Attributes:
        has_ascii_letters: whether the letters of ASCII are in the class.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = regex.compile(pattern)
        self._inside: set[str] = set()
        self._outside: set[str] = set()
        self.has_ascii_letters = self._pattern.fullmatch("a") is not None

    def others(self, characters: frozenset[str]) -> frozenset[str]:
        """Return the characters that are not in the class."""
        others = characters - self._inside
        if others <= self._outside:
            return others
        for character in others - self._outside:
            (self._inside if self._pattern.fullmatch(character) else self._outside).add(character)
        return characters - self._inside


ALPHABETIC = CharacterClass(r"\p{Alphabetic}")
LETTERS = CharacterClass(r"[\p{Alphabetic}\p{M}]")  # with all marks that are written with letters


@functools.cache
def native_characters(script: str) -> CharacterClass | None:
    """Return the class of all characters except the letters of other scripts; None if Unicode does not know the script.

    Letters that belong to no single script (Unicode's scripts Common and Inherited) belong to every script.

    Args:
        script: ISO 15924 code.
    """
    scripts = "".join(rf"\p{{Script={part}}}" for part in _COMBINED.get(script, (script,)))
    try:
        return CharacterClass(rf"[{scripts}\p{{Script=Common}}\p{{Script=Inherited}}\p{{Alphabetic=No}}]")
    except regex.error:
        return None
