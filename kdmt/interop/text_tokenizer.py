"""Tokenizers in the folders of models that translate text: a `tokenizer.json`, or a SentencePiece model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import sentencepiece

from kdmt.errors import UserError, describe_error

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_JSON = "tokenizer.json"
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model")


class TextTokenizer(Protocol):
    """Tokenizer of a model: text to tokens of its vocabulary as strings, and back."""

    def encode(self, text: str) -> list[str]:
        """Return the tokens of an input, with the special tokens that the model expects around it."""
        ...

    def decode(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens, without special tokens."""
        ...


def open_text_tokenizer(folder: Path, *, begin: bool, end: bool) -> TextTokenizer:
    """Return the tokenizer of a folder.

    Args:
        begin, end: whether an input begins with the token for its beginning or ends with the one for its end, for
            SentencePiece models; a `tokenizer.json` describes this itself.

    Raises:
        UserError: if the folder has no tokenizer, or it cannot be read.
    """
    if (path := folder / TOKENIZER_JSON).is_file():
        return JsonTokenizer(path)
    for name in SENTENCEPIECE_FILES:
        if (path := folder / name).is_file():
            return SentencePieceTokenizer(path, begin=begin, end=end)
    known = ", ".join((TOKENIZER_JSON, *SENTENCEPIECE_FILES))
    raise UserError(f"{folder}: no tokenizer: copy that of the model into the folder ({known})")


class JsonTokenizer:
    """A tokenizer of Hugging Face's library `tokenizers`.

    Raises:
        UserError: if the library is not installed, or the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise UserError(f"{path}: tokenizers is not installed: pip install 'kdmt[huggingface]'") from None
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises Exception itself
            raise UserError(f"{path}: not a tokenizer: {describe_error(error)}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[str]:
        """See `TextTokenizer.encode`."""
        return list(self._tokenizer.encode(text).tokens)

    def decode(self, tokens: Sequence[str]) -> str:
        """See `TextTokenizer.decode`."""
        ids = [self._tokenizer.token_to_id(token) for token in tokens]
        return str(self._tokenizer.decode([number for number in ids if number is not None], skip_special_tokens=True))


class SentencePieceTokenizer:
    """A SentencePiece model."""

    def __init__(self, path: Path, *, begin: bool, end: bool) -> None:
        self._path = path
        begins, ends = self._model.bos_id(), self._model.eos_id()
        self._begin = [self._model.id_to_piece(begins)] if begin and begins >= 0 else []
        self._end = [self._model.id_to_piece(ends)] if end and ends >= 0 else []

    def encode(self, text: str) -> list[str]:
        """See `TextTokenizer.encode`."""
        return [*self._begin, *self._model.encode(text, out_type=str), *self._end]

    def decode(self, tokens: Sequence[str]) -> str:
        """See `TextTokenizer.decode`."""
        model = self._model
        pieces = [token for token in tokens if not model.is_control(model.piece_to_id(token))]
        return str(model.decode_pieces(pieces))

    @cached_property
    def _model(self) -> sentencepiece.SentencePieceProcessor:
        try:
            return sentencepiece.SentencePieceProcessor(model_file=str(self._path))
        except (RuntimeError, OSError) as error:
            raise UserError(f"{self._path}: not a SentencePiece model: {describe_error(error)}") from None
