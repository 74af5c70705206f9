"""Text to ids and back: the tokenizer, the dictionaries and the text processing that belong together.

A folder that holds `tokenizer/`, `text.json` and the two `dict.<lang>.txt` is all that is needed; every checkpoint is
such a folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.detokenizer import Detokenizer
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import Tokenizers, load_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.files import read_json_object
from kdmt.languages import Direction
from kdmt.types import EOS

TEXT_FILE = "text.json"
MODEL_FILE = "model.json"


@dataclass(frozen=True)
class TextCodec:
    """Words are text as the tokenizer sees it (processed: lowercased, Moses-tokenised, ... as set)."""

    text: TextProcessor
    tokenizers: Tokenizers
    src_dictionary: Dictionary
    tgt_dictionary: Dictionary

    @classmethod
    def load(cls, folder: Path) -> TextCodec:
        """From a checkpoint or a `prepare` folder.

        Raises:
            UserError: naming the file that is missing or unreadable, or a dictionary that is not the model's.
        """
        text = load_text_processor(folder / TEXT_FILE)
        source, target = load_dictionaries(folder, text)
        return cls(
            text=text,
            tokenizers=load_tokenizer(folder / "tokenizer"),
            src_dictionary=source,
            tgt_dictionary=target,
        )

    def companions(self, folder: Path) -> list[Path]:
        """The files of `folder` that make a codec."""
        return [folder / name for name in companion_names(self.text.direction)]

    def encode_raw_source(self, lines: Iterable[str]) -> list[np.ndarray]:
        """Raw source lines as ids, each ending in </s>."""
        return self.encode_source([self.text.preprocess_source(line) for line in lines])

    def encode_source(self, words: Sequence[str]) -> list[np.ndarray]:
        """Processed source lines as ids, each ending in </s>."""
        return [self.src_dictionary.encode_line(line) for line in self.tokenizers.source.encode_lines(words)]

    def encode_target(self, words: Sequence[str]) -> list[np.ndarray]:
        """Processed target lines as ids, each ending in </s>."""
        return [self.tgt_dictionary.encode_line(line) for line in self.tokenizers.target.encode_lines(words)]

    def decode_target(self, tokens: Iterable[int]) -> str:
        """Ids without </s> as words: subwords joined, still lowercased and Moses-tokenised where the text is."""
        special = range(EOS + 1)  # <s>, <pad> and </s> mean nothing inside a sentence; <unk> stays visible
        kept = [token for token in tokens if token not in special]
        return self.tokenizers.target.decode(self.tgt_dictionary.string(kept))

    def decode_targets(self, tokens: NDArray[np.integer[Any]], sizes: NDArray[np.integer[Any]]) -> list[str]:
        """`decode_target` of many lines: the same text, several times as fast.

        Args:
            tokens: target ids, back to back [sum(sizes)].
            sizes: tokens of each line [N].
        """
        return self._detokenizer.decode(tokens, sizes)

    @cached_property
    def _detokenizer(self) -> Detokenizer:
        return Detokenizer(self.tokenizers.target, self.tgt_dictionary.symbols)

    def finish_target(self, words: str) -> str:
        """Words as finished text."""
        return self.text.postprocess_target(self.tokenizers.target.join(words))


def load_dictionaries(folder: Path, text: TextProcessor) -> tuple[Dictionary, Dictionary]:
    """Return the source and the target dictionary of a folder.

    Raises:
        UserError: one is missing or unreadable, or has another size than the model in the same folder.
    """
    paths = [folder / f"dict.{lang}.txt" for lang in text.direction.sides]
    source, target = (Dictionary.load(path) for path in paths)
    check_sizes(folder, paths, (len(source), len(target)))
    return source, target


def check_sizes(folder: Path, paths: Sequence[Path], sizes: Sequence[int]) -> None:
    """Refuse dictionaries, source and target, that have another size than the model beside them says, if there is one.

    Args:
        paths: of the dictionaries, for messages.
        sizes: their symbols, the special ones included.

    Raises:
        UserError: naming the dictionary and both sizes.
    """
    if not (folder / MODEL_FILE).exists():
        return
    description = read_json_object(folder / MODEL_FILE)
    for side, path, size in zip(("src", "tgt"), paths, sizes, strict=True):
        wanted = description.get(f"{side}_vocab_size")
        if wanted != size:
            raise UserError(
                f"{path}: has {size} symbols, and the model in {folder / MODEL_FILE} {str(wanted)[:80]}: "
                "not the dictionary that it was trained with"
            )


def load_text_processor(path: Path) -> TextProcessor:
    """The text processing of a checkpoint or a `prepare` folder, from its `text.json`.

    Raises:
        UserError: the file is missing or is none.
    """
    values = read_json_object(path, missing="there is no such file: not a folder that carries its text processing")
    try:
        return TextProcessor.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def companion_names(direction: Direction) -> list[str]:
    """Return the names of the files and folders that `TextCodec.load` reads."""
    return ["tokenizer", TEXT_FILE, *dict.fromkeys(f"dict.{lang}.txt" for lang in direction.sides)]


def cut_source(source: np.ndarray, max_tokens: int) -> np.ndarray:
    """The first `max_tokens` of a source, the last of them </s>."""
    return source if len(source) <= max_tokens else np.append(source[: max_tokens - 1], source[-1])


def check_vocabulary(checkpoint: Path, data: Path, direction: Direction) -> None:
    """Refuse a checkpoint whose vocabulary is not the data's.

    Args:
        checkpoint, data: folders with `dict.<lang>.txt` of each language.

    Raises:
        UserError: naming both files and the first symbol that differs.
    """
    sizes = []
    for lang in direction.sides:
        ours, theirs = (folder / f"dict.{lang}.txt" for folder in (checkpoint, data))
        if not ours.is_file():
            raise UserError(f"{ours}: there is no such file: the checkpoint was made for another language pair")
        a, b = Dictionary.load(ours).symbols, Dictionary.load(theirs).symbols
        first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        sizes.append(len(a))
        if a == b:
            continue  # perhaps with other counts: ids mean the same
        raise UserError(
            f"{ours} does not match {theirs}: {len(a)} symbols against {len(b)}, different from symbol {first} on"
        )
    check_sizes(checkpoint, [checkpoint / f"dict.{lang}.txt" for lang in direction.sides], sizes)
