"""Conversion of text to ids and back, with the tokenizer, the dictionaries and the text processing of a model.

All of them are read from a folder with `tokenizer/`, `text.json` and the two `dict.<lang>.txt`; every checkpoint is
such a folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.config.directions import language_prefix
from kdmt.corpus.detokenizer import Detokenizer
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import Tokenizers, load_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.files import read_json_object
from kdmt.languages import POOLED, Direction
from kdmt.types import EOS

TEXT_FILE = "text.json"
MODEL_FILE = "model.json"


@dataclass(frozen=True)
class TextCodec:
    """Text processing, tokenizers and dictionaries of both languages.

    Arguments and results named `words` are processed text, which is the input of the tokenizer: lowercased,
    Moses-tokenised and so on, as in the settings.

    Attributes:
        language_tokens: tokens for the languages of a model with several directions, which no target has; those that a
            model writes are left out of its translations.
    """

    text: TextProcessor
    tokenizers: Tokenizers
    src_dictionary: Dictionary
    tgt_dictionary: Dictionary
    language_tokens: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> TextCodec:
        """Load a codec from a checkpoint or a `prepare` folder.

        Raises:
            UserError: if a file is missing or unreadable, or a dictionary does not match the model; the message names
                the file.
        """
        text = load_text_processor(folder / TEXT_FILE)
        source, target = load_dictionaries(folder, text)
        return cls(
            text=text,
            tokenizers=load_tokenizer(folder / "tokenizer"),
            src_dictionary=source,
            tgt_dictionary=target,
            language_tokens=tuple(text.language_symbols),
        )

    def for_direction(self, direction: Direction) -> TextCodec:
        """Return the codec of one of several directions of a model.

        Raises:
            UserError: if the model does not have the direction.
        """
        if direction not in self._directions:
            known = ", ".join(map(str, self.text.all_directions))
            raise UserError(f"the model does not translate {direction}; it translates {known}")
        return replace(self, text=self.text.for_direction(direction))

    def prefix_ids(self, direction: Direction) -> tuple[int, ...]:
        """Return the ids of the tokens before the source for one of several directions.

        Raises:
            UserError: if the vocabulary does not have a token.
        """
        tokens = language_prefix(direction, self.text.language_tokens)
        check_language_tokens(self.src_dictionary, tokens, "the vocabulary")
        return tuple(self.src_dictionary.index(token) for token in tokens)

    @cached_property
    def _directions(self) -> frozenset[Direction]:
        return frozenset(self.text.directions)

    @cached_property
    def language_ids(self) -> tuple[frozenset[int], frozenset[int]]:
        """Return the ids of the tokens for the languages in the source and in the target dictionary.

        The separator of contexts counts as one: translations do not contain it.
        """
        separators = () if self.text.context is None else (self.text.context.separator,)
        tokens = (*self.language_tokens, *separators)
        source, target = (
            frozenset(dictionary.index(token) for token in tokens if token in dictionary)
            for dictionary in (self.src_dictionary, self.tgt_dictionary)
        )
        return source, target

    def companions(self, folder: Path) -> list[Path]:
        """Return the paths in `folder` of the files and folders of a codec."""
        return [folder / name for name in companion_names(self.text.direction)]

    def encode_raw_source(self, lines: Iterable[str]) -> list[np.ndarray]:
        """Encode raw source lines to ids, each ending in </s>."""
        return self.encode_source([self.text.preprocess_source(line) for line in lines])

    def encode_source(self, words: Sequence[str]) -> list[np.ndarray]:
        """Encode processed source lines to ids, each ending in </s>."""
        return [self.src_dictionary.encode_line(line) for line in self.tokenizers.source.encode_lines(words)]

    def encode_target(self, words: Sequence[str]) -> list[np.ndarray]:
        """Encode processed target lines to ids, each ending in </s>."""
        return [self.tgt_dictionary.encode_line(line) for line in self.tokenizers.target.encode_lines(words)]

    def decode_target(self, tokens: Iterable[int]) -> str:
        """Decode ids without </s> to words: subwords are joined, but lowercasing and Moses tokenisation remain."""
        # <s>, <pad> and </s> have no text inside a sentence; <unk> stays visible
        kept = [token for token in tokens if token > EOS and token not in self.language_ids[1]]
        return self.tokenizers.target.decode(self.tgt_dictionary.string(kept))

    def decode_targets(self, tokens: NDArray[np.integer[Any]], sizes: NDArray[np.integer[Any]]) -> list[str]:
        """Decode many lines, with the same result as `decode_target` but several times faster.

        Args:
            tokens: concatenated target ids [sum(sizes)].
            sizes: number of tokens of each line [N].
        """
        return self._detokenizer.decode(tokens, sizes)

    def decode_sources(self, tokens: NDArray[np.integer[Any]], sizes: NDArray[np.integer[Any]]) -> list[str]:
        """Decode many source lines, as `decode_targets` decodes target lines."""
        return self._source_detokenizer.decode(tokens, sizes)

    @cached_property
    def _source_detokenizer(self) -> Detokenizer:
        return Detokenizer(self.tokenizers.source, self.src_dictionary.symbols)

    @cached_property
    def _detokenizer(self) -> Detokenizer:
        return Detokenizer(self.tokenizers.target, self.tgt_dictionary.symbols, left_out=self.language_ids[1])

    def finish_source(self, words: str) -> str:
        """Convert words of a source to finished text, for example by detokenisation."""
        return self.text.postprocess_source(self.tokenizers.source.join(words))

    def finish_target(self, words: str) -> str:
        """Convert words to finished text, for example by detokenisation."""
        return self.text.postprocess_target(self.tokenizers.target.join(words))


def check_language_tokens(dictionary: Dictionary, tokens: Iterable[str], name: str) -> None:
    """Check that a vocabulary has the tokens for languages.

    Args:
        name: name of the vocabulary, for the message.

    Raises:
        UserError: if it does not have one.
    """
    missing = [token for token in tokens if token not in dictionary]
    if missing:
        raise UserError(f"{name} does not have the language token {', '.join(dict.fromkeys(missing))}")


def load_dictionaries(folder: Path, text: TextProcessor) -> tuple[Dictionary, Dictionary]:
    """Return the source and the target dictionary of a folder.

    Raises:
        UserError: if one is missing or unreadable, or its size differs from that of the model in the same folder.
    """
    paths = [folder / f"dict.{lang}.txt" for lang in text.direction.sides]
    source, target = (Dictionary.load(path) for path in paths)
    check_sizes(folder, paths, (len(source), len(target)))
    return source, target


def check_sizes(folder: Path, paths: Sequence[Path], sizes: Sequence[int]) -> None:
    """Check that the sizes of both dictionaries are those of the model in the same folder, if there is a model.

    Args:
        folder: folder with the dictionaries and perhaps `model.json`.
        paths: paths of the source and target dictionary, for messages.
        sizes: number of symbols of each dictionary, including the special symbols.

    Raises:
        UserError: if a size differs; the message names the dictionary and both sizes.
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
    """Load the text processing of a checkpoint or a `prepare` folder from its `text.json`.

    Raises:
        UserError: if the file is missing or not valid.
    """
    values = read_json_object(path, missing="there is no such file: not a folder that carries its text processing")
    try:
        return TextProcessor.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def companion_names(direction: Direction) -> list[str]:
    """Return the names of the files and folders that `TextCodec.load` reads."""
    return ["tokenizer", TEXT_FILE, *dict.fromkeys(f"dict.{lang}.txt" for lang in direction.sides)]


def insert_prefix(sources: list[np.ndarray], prefix: Sequence[int]) -> list[np.ndarray]:
    """Return sources with ids before each, such as those of tokens for languages; a source without words has none."""
    if not prefix:
        return sources
    return [np.insert(source, 0, prefix) if len(source) > 1 else source for source in sources]


def cut_source(source: np.ndarray, max_tokens: int) -> np.ndarray:
    """Truncate a source to `max_tokens` tokens, the last of which is </s>."""
    return source if len(source) <= max_tokens else np.append(source[: max_tokens - 1], source[-1])


def check_vocabulary(checkpoint: Path, data: Path, direction: Direction) -> None:
    """Check that a checkpoint has the same vocabulary as the data.

    Args:
        checkpoint, data: folders with `dict.<lang>.txt` of each language.

    Raises:
        UserError: if dictionaries differ; the message names both files and the index of the first symbol that differs.
    """
    sizes = []
    for lang in direction.sides:
        ours, theirs = (folder / f"dict.{lang}.txt" for folder in (checkpoint, data))
        if not ours.is_file():
            raise UserError(_other_pair(checkpoint, ours, direction))
        a, b = Dictionary.load(ours).symbols, Dictionary.load(theirs).symbols
        first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        sizes.append(len(a))
        if a == b:
            continue  # the counts may differ: the ids are the same
        raise UserError(
            f"{ours} does not match {theirs}: {len(a)} symbols against {len(b)}, different from symbol {first} on"
        )
    check_sizes(checkpoint, [checkpoint / f"dict.{lang}.txt" for lang in direction.sides], sizes)


def _other_pair(checkpoint: Path, missing: Path, direction: Direction) -> str:
    """Return the message for a checkpoint that does not have a dictionary of the data."""
    has_several = (checkpoint / f"dict.{POOLED.target}.txt").is_file()
    if direction == POOLED:
        other = "a model with one direction, but the pipeline has several ('directions', 'languages')"
    elif has_several:
        other = f"a model with several directions: use it in a pipeline with 'directions: [{direction}]'"
    else:
        other = "the checkpoint was made for another language pair"
    return f"{missing}: there is no such file: {other}"
