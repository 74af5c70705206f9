"""German-like sentences in Thai letters without spaces between words, and back.

Each letter has a Thai consonant of its own, whatever its case. A word's first letter carries a mark: a vowel below it
where the letter is small, a tone mark above it where it is a capital. So nothing but the spaces is gone, and where they
were can be read from the text: sentences keep their distribution. Punctuation stays.
"""

from __future__ import annotations

import re

LATIN = "abcdefghijklmnopqrstuvwxyzäöüß"
THAI = "กขคงจฉชซญดตถทธนบปผฝพฟภมยรลวสหอ"
SMALL, CAPITAL = "\u0e38", "\u0e48"  # on the first letter of a word

_TO_THAI = dict(zip(LATIN, THAI, strict=True))
_TO_LATIN = dict(zip(THAI, LATIN, strict=True))
_WORD = re.compile(f"[{LATIN}{LATIN.upper()}]+")
_ALPHABET = {*LATIN, *LATIN.upper(), *" ,."}
_THAI_WORD = re.compile(f"([{THAI}])([{SMALL}{CAPITAL}])((?:[{THAI}](?![{SMALL}{CAPITAL}]))*)")


def remove_spaces(sentence: str) -> str:
    """Return a sentence in Thai letters, its words written together.

    Raises:
        ValueError: it holds characters that the toy language has not, or capitals inside a word.
    """
    unspaced = ""
    if {*sentence} <= _ALPHABET:
        unspaced = _WORD.sub(lambda match: _to_thai(match[0]), sentence).replace(" ", "")
    if restore_spaces(unspaced) != sentence:
        raise ValueError(f"not a sentence of the toy language: {sentence!r}")
    return unspaced


def restore_spaces(sentence: str) -> str:
    """Return the sentence that `remove_spaces` made this of; any other text comes back without meaning."""
    words = _THAI_WORD.sub(lambda match: f" {_to_latin(*match.groups())}", sentence)
    return words.removeprefix(" ")


def _to_thai(word: str) -> str:
    mark = CAPITAL if word[0].isupper() else SMALL
    first, *rest = (_TO_THAI[letter] for letter in word.lower())
    return "".join([first, mark, *rest])


def _to_latin(first: str, mark: str, rest: str) -> str:
    initial = _TO_LATIN[first]
    return (initial.upper() if mark == CAPITAL else initial) + "".join(_TO_LATIN[letter] for letter in rest)
