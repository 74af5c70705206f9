"""Tokenizers of Hugging Face, read from their `tokenizer.json`.

The library `tokenizers` is imported when a model is loaded, because it is an extra. Its special tokens are neither
added nor found in text; text that is spelled like one is cut like other text.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.subword_model import SubwordModel, Surfaces, on_one_line
from kdmt.errors import UserError
from kdmt.types import SPECIALS, UNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NOT_INSTALLED = "Hugging Face tokenizers is not installed: pip install 'kdmt[huggingface]'"


class HuggingFaceModel(SubwordModel):
    """A tokenizer of Hugging Face. `symbols[id]` is its token, with three exceptions.

    The unknown token of the model is `<unk>`. A token that contains whitespace has a name that contains none. A token
    that is spelled like a special symbol of kdmt is `<unk>`, as in the other models.

    Attributes:
        vocabulary: symbols for a dictionary, in the order of their ids.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        description = _read(path)
        self._tokenizer = _load(path, description)
        tokens = {number: token for token, number in self._tokenizer.get_vocab(with_added_tokens=True).items()}
        unknown = _unknown_id(description["model"])
        super().__init__([])
        for number in range(max(tokens, default=-1) + 1):
            token = tokens.get(number)
            is_special = number == unknown or token in SPECIALS
            symbol = SPECIALS[UNK] if is_special else self._new_name(number, token)
            if token in SPECIALS and number != unknown:
                self.literal_specials[number] = token
            self._ids.setdefault(symbol, number)
            self.symbols.append(symbol)
        self.vocabulary = [self.symbols[i] for i in sorted(tokens) if self.symbols[i] != SPECIALS[UNK]]
        self._own_ids = dict(self._ids)
        if unknown is None:
            self._own_ids.pop(SPECIALS[UNK], None)
        else:
            self._own_ids[SPECIALS[UNK]] = unknown

    def encode_ids(self, lines: Sequence[str], threads: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        spaced = [line if line.isprintable() else " ".join(line.split()) for line in lines]
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"  # the library reads it in each call
        try:
            encoded = self._tokenizer.encode_batch_fast(spaced, add_special_tokens=False)
        except Exception as error:  # the library raises no narrower type
            raise UserError(f"{self._path}: the tokenizer cannot cut the text: {error}") from None
        ids = [each.ids for each in encoded]
        sizes = np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))
        return np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(sizes.sum())), sizes

    def decode(self, tokenised: str) -> str:
        """Return the text of a tokenised line. Symbols that are not of the model, such as a tag, stay as they are."""
        parts = []
        for is_own, run in itertools.groupby(tokenised.split(), key=self._own_ids.__contains__):
            symbols = list(run)
            if is_own:
                ids = [self._own_ids[symbol] for symbol in symbols]
                symbols = [self._tokenizer.decode(ids, skip_special_tokens=False)]
            parts += symbols
        return on_one_line(" ".join(parts))

    def surfaces(self, symbols: Sequence[str]) -> Surfaces:
        """Return no text of any symbol: it depends on the neighbours in most decoders of the library."""
        return Surfaces([None] * len(symbols), [None] * len(symbols), "first")

    def _new_name(self, number: int, token: str | None) -> str:
        """Return a token, or a name without whitespace if it is no single word or the id has no token."""
        if token is not None and token.split() == [token]:
            return token
        name = f"<id{number}>"
        while self._tokenizer.token_to_id(name) is not None:
            name = f"<{name}>"
        return name


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a tokenizer.json."""
    try:
        description = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not a tokenizer.json of Hugging Face tokenizers: not valid JSON") from None
    if not isinstance(description, dict) or not isinstance(description.get("model"), dict):
        raise UserError(f"{path}: not a tokenizer.json of Hugging Face tokenizers: it has no 'model'")
    return description


def _load(path: Path, description: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer without padding, truncation and random segmentation."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UserError(f"{path}: {_NOT_INSTALLED}") from None
    model = dict(description["model"])
    if "dropout" in model:
        model["dropout"] = None
    content = json.dumps({**description, "model": model, "padding": None, "truncation": None})
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises no narrower type
        raise UserError(f"{path}: not a tokenizer.json of Hugging Face tokenizers: {error}") from None
    tokenizer.encode_special_tokens = True  # text that is spelled like a special token is ordinary text
    return tokenizer


def _unknown_id(model: Mapping[str, Any]) -> int | None:
    """Return the id of the unknown token of a model, None if it has none."""
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    vocabulary, unknown = model.get("vocab"), model.get("unk_token")
    found = vocabulary.get(unknown) if isinstance(vocabulary, dict) and isinstance(unknown, str) else None
    return found if isinstance(found, int) else None
