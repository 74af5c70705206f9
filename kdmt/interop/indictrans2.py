"""Tokens of IndicTrans2 models (Gala et al. 2023) in CTranslate2's format.

<folder>/
    model.bin, ...              model as CTranslate2's converter for fairseq writes it
    vocab/model.SRC, model.TGT  SentencePiece models of the source and the target side

A source is two tags (`eng_Latn hin_Deva`) and the pieces of its words, which are separated from punctuation. Scripts
that derive from Brahmi are written in Devanagari: Unicode has their letters at the same places of their blocks, which
is how the models' authors convert them. What their other tools do is not repeated here: normalisation of letters, and
placeholders for numbers, URLs and names.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import regex

from kdmt.config import Text
from kdmt.corpus.text import TextProcessor
from kdmt.files import read_optional_json
from kdmt.interop.text_tokenizer import SentencePieceTokenizer

VOCAB = Path("vocab")
SOURCE_PIECES, TARGET_PIECES = VOCAB / "model.SRC", VOCAB / "model.TGT"

_ENGLISH = "eng_Latn"
_DEVANAGARI = 0x0900
# script in a tag -> first code point of its block
_BLOCKS = {
    "Beng": 0x0980,
    "Guru": 0x0A00,
    "Gujr": 0x0A80,
    "Orya": 0x0B00,
    "Taml": 0x0B80,
    "Telu": 0x0C00,
    "Knda": 0x0C80,
    "Mlym": 0x0D00,
}
_PARALLEL = range(0x70)  # offsets in a block that have the same meaning in all blocks
_DANDAS = (0x64, 0x65)  # all scripts use those of Devanagari
_PLOSIVES = (0x15, 0x1A, 0x1F, 0x24, 0x2A)  # offset of the first of five letters with one place of articulation
_NUMBER = r"(?<=\p{N})[.,:/](?=\p{N})"
_PUNCTUATION = regex.compile(rf"{_NUMBER}(*SKIP)(*FAIL)|([\p{{P}}\p{{S}}])")
_BEFORE = regex.compile(r"\s+([.,;:!?%।॥)\]}»”’])")  # punctuation that follows a word without a space
_AFTER = regex.compile(r"([(\[{«“‘])\s+")
_QUOTED = regex.compile(r"""(["'])\s+([^"']*?)\s+\1""")


class IndicTrans2Tokenizer:
    """Tokenizer of both sides. See `TextTokenizer`.

    Args:
        folder: folder of the model.
        source_code, target_code: tags of the languages.

    Raises:
        UserError: if a SentencePiece model is missing or unreadable.
    """

    def __init__(self, folder: Path, source_code: str, target_code: str) -> None:
        self._source_code, self._target_code = source_code, target_code
        config = read_optional_json(folder / "config.json") or {}
        self._source = SentencePieceTokenizer(folder / SOURCE_PIECES, begin=False, end=False)
        self._target = SentencePieceTokenizer(folder / TARGET_PIECES, begin=False, end=False)
        self._end = [] if config.get("add_source_eos", False) else ["</s>"]

    def encode(self, text: str) -> list[str]:
        """See `TextTokenizer.encode`."""
        if self._source_code == _ENGLISH:
            words = self._english.preprocess_source(text)
        else:
            words = to_devanagari(separate_punctuation(text), _script(self._source_code))
        return [self._source_code, self._target_code, *self._source.encode(words), *self._end]

    def decode(self, tokens: Sequence[str]) -> str:
        """See `TextTokenizer.decode`."""
        words = self._target.decode(tokens)
        if self._target_code == _ENGLISH:
            return self._english.postprocess_source(words)
        return join_punctuation(from_devanagari(words, _script(self._target_code)))

    @cached_property
    def _english(self) -> TextProcessor:
        return TextProcessor(Text(moses=True, normalize=True, lowercase=False), "en", "en")


def to_devanagari(text: str, script: str) -> str:
    """Return text with the letters of a script replaced by those of Devanagari; others stay.

    Args:
        script: script of the text as in tags, such as Beng.
    """
    return text if script not in _BLOCKS else text.translate(_table(_BLOCKS[script], _DEVANAGARI))


def from_devanagari(text: str, script: str) -> str:
    """Return text with the letters of Devanagari replaced by those of a script.

    A plosive that the script does not have, as in Tamil, becomes the first of its place of articulation. Other letters
    that it does not have stay.
    """
    return text if script not in _BLOCKS else text.translate(_table(_DEVANAGARI, _BLOCKS[script]))


def separate_punctuation(text: str) -> str:
    """Return a text with spaces around punctuation, except in numbers."""
    return " ".join(_PUNCTUATION.sub(r" \1 ", text).split())


def join_punctuation(text: str) -> str:
    """Return a text without the spaces that do not belong before or after punctuation."""
    return _QUOTED.sub(r"\1\2\1", _AFTER.sub(r"\1", _BEFORE.sub(r"\1", text)))


def _script(code: str) -> str:
    return code.partition("_")[2]


def _table(source: int, target: int) -> dict[int, int]:
    """Return code point -> code point of the same letter in another block."""
    found: dict[int, int] = {}
    for offset in _PARALLEL:
        if offset in _DANDAS or not _is_assigned(source + offset):
            continue
        first = max((each for each in _PLOSIVES if each <= offset < each + 5), default=offset)
        for place in (offset, first):
            if _is_assigned(target + place):
                found[source + offset] = target + place
                break
    return found


def _is_assigned(code_point: int) -> bool:
    return unicodedata.category(chr(code_point)) != "Cn"
