"""Cutting a checkpoint of kdmt to the tokens that some text needs.

The new checkpoint has the rows of the tokens that stay, and all other weights, of the original; its dictionary lists
the tokens that stay in their order. The tokenizer changes with it:

* SentencePiece: pieces that do not stay are removed from the model, so that their text is cut into smaller ones.
  What has to stay for this is described in `kdmt.interop.huggingface_trim`.
* subword-nmt, given tokenizers of Hugging Face, and tokens: the tokenizer stays as it is, and a token that is not in
  the dictionary any more is <unk>.

A model with several directions keeps those between the languages that stay, and their tokens. Such models have one
vocabulary for all languages; models with separate vocabularies for source and target are refused.
"""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdmt.checksum import file_sha256, read_checksums
from kdmt.corpus.bpe_parts import Rank, bpe_parts, ranks_by_score
from kdmt.corpus.codec import TEXT_FILE, TextCodec
from kdmt.corpus.sentencepiece_file import BYTE, NORMAL, USER_DEFINED, Piece, read_facts, read_pieces, with_pieces
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import SentencePieceModel, tokenizer_files
from kdmt.corpus.vocabulary import Dictionary
from kdmt.corpus.vocabulary_choice import choose_tokens, extreme_pieces
from kdmt.errors import UserError
from kdmt.files import PARTIAL, atomic_folder, read_json_object, write_json
from kdmt.interop.export_folder import CARD_FILE, check_new, record_file
from kdmt.interop.trim_record import (
    FILE,
    Size,
    TextCounts,
    TrimRecord,
    TrimSettings,
    check_known,
    checked_lines,
    count_text,
    read_token_list,
    without_counts,
)
from kdmt.languages import Direction, same_language
from kdmt.models.build import build_model, count_parameters, describe_model
from kdmt.models.checkpoint import load_model, save_checkpoint
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.models.transformer import Transformer
from kdmt.outputs import writing
from kdmt.types import SPECIALS, UNK

_WEIGHTS = "model.safetensors"
_ROWS = (  # weights with a row for each token
    *("src_embed.tokens.weight", "tgt_embed.tokens.weight", "output_proj.weight", "output_proj.bias"),
    *("transitions.first.weight", "transitions.second.weight"),
)
_TAG = re.compile(r"<[^<>\s]+>")  # a token for a corpus or a language, which no text is cut into


def trim_checkpoint(checkpoint: Path, out: Path, settings: TrimSettings) -> TrimRecord:
    """Write a checkpoint with fewer tokens to a new folder. An error leaves no partial folder.

    Args:
        checkpoint: a checkpoint folder, a pointer file or a run.
        out: the new checkpoint folder.
        settings: text and limits.

    Raises:
        UserError: if there is no checkpoint, it has two vocabularies, a language or token is unknown, the text is
            empty, nothing of it would stay, or `out` exists.
    """
    check_new(out)
    settings.check_files()
    source = resolve_checkpoint(checkpoint)
    log_opened(checkpoint, source)
    original = _Original(source, TextCodec.load(source), load_model(source))
    _check_joint(original)
    directions = _find_directions(original, settings.languages)
    counts_V = original.count(settings.texts, directions)
    check_known(settings.texts, counts_V, UNK, original.symbols)
    required = original.required(counts_V, directions)
    if settings.keep_tokens is not None:
        required |= set(read_token_list(settings.keep_tokens, original.ids))
    not_chosen = [UNK, *(original.ids[name] for name in original.dropped(directions) if name in original.ids)]
    kept = choose_tokens(without_counts(counts_V, not_chosen), required, settings.limits, original.parts_of)
    trimmed = _Trimmed(original, kept, directions)
    with (
        writing(out),
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{PARTIAL}{out.name}-text-") as scratch,
    ):
        check_new(out)  # once more: another process may have written it in the meantime
        companions = trimmed.write_text(Path(scratch))
        _check_segmentation(Path(scratch), trimmed, settings.texts)
        model = _cut_model(original.model, kept)
        with atomic_folder(out) as aside:
            save_checkpoint(aside, model, companions=companions)
            record = TrimRecord(
                settings.command(checkpoint, out),
                read_checksums(source),
                Size(len(original.symbols), count_parameters(original.model), (source / _WEIGHTS).stat().st_size),
                Size(len(kept), count_parameters(model), (aside / _WEIGHTS).stat().st_size),
                TextCounts.count(counts_V, kept, UNK),
                tuple(dict.fromkeys(chain.from_iterable(each.sides for each in directions))),
            )
            record.write(aside, settings, checkpoint)
            for name in (FILE, CARD_FILE):
                record_file(aside, aside / name)
    return record


def _check_joint(original: _Original) -> None:
    codec = original.codec
    if codec.src_dictionary != codec.tgt_dictionary or codec.tokenizers.source is not codec.tokenizers.target:
        raise UserError(
            f"{original.folder}: source and target have vocabularies of their own: only a model with one vocabulary "
            "for all languages can be trimmed"
        )


def _find_directions(original: _Original, languages: Sequence[str] | None) -> tuple[Direction, ...]:
    """Return the directions that stay.

    Raises:
        UserError: if the model does not have a language, or no direction stays.
    """
    text = original.codec.text
    if languages is None:
        return text.all_directions
    known = list(dict.fromkeys(chain.from_iterable(each.sides for each in text.all_directions)))
    for name in languages:
        if not any(same_language(name, code) for code in known):
            raise UserError(
                f"--languages: {original.folder} has no {name[:80]!r}; its languages are {', '.join(known)}"
            )
    stay = {code for code in known if any(same_language(name, code) for name in languages)}
    directions = tuple(each for each in text.all_directions if stay.issuperset(each.sides))
    if not directions:
        all_directions = ", ".join(map(str, text.all_directions))
        raise UserError(
            f"--languages {','.join(languages)}: no direction would stay: {original.folder} translates {all_directions}"
        )
    return directions


# --------------------------------------------------------------------------------------------------------- vocabularies


@dataclass(frozen=True)
class _Original:
    """The original checkpoint. Ids are those of its dictionary."""

    folder: Path
    codec: TextCodec
    model: Transformer

    @property
    def symbols(self) -> list[str]:
        """Token of each id."""
        return self.codec.src_dictionary.symbols

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of each token; the last one of tokens that are listed twice, as in the dictionary."""
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    @cached_property
    def pieces(self) -> list[Piece] | None:
        """Pieces of the SentencePiece model, None for other tokenizers."""
        return None if self.model_file is None else read_pieces(self.model_file.read_bytes())

    @cached_property
    def model_file(self) -> Path | None:
        """File of the SentencePiece model, None for other tokenizers."""
        is_sentencepiece = isinstance(self.codec.tokenizers.source, SentencePieceModel)
        return tokenizer_files(self.folder / "tokenizer")[0] if is_sentencepiece else None

    def count(self, texts: Sequence[Path], directions: Sequence[Direction]) -> NDArray[np.int64]:
        """Return the number of occurrences of each token in some files of any language: int64 [V].

        If the processing of text depends on the language, it is the largest number by the rules of one of them.
        """
        counts = (
            count_text(texts, len(self.symbols), partial(self._encode, language))
            for language in languages_of_rules(self.codec, directions)
        )
        return functools.reduce(np.maximum, counts)

    def _encode(self, language: str, lines: list[str]) -> NDArray[np.int64]:
        """Return the ids of all tokens of some lines, without </s>, one after the other."""
        found = encode_raw(self.codec, language, lines)
        return np.concatenate([np.zeros(0, dtype=np.int64), *(ids[:-1] for ids in found)])

    def required(self, counts_V: NDArray[np.int64], directions: Collection[Direction]) -> set[int]:
        """Return the ids that stay in any case.

        These are special tokens, tags, languages, bytes, user-defined symbols, and characters of the text.
        """
        names = {symbol for symbol in self.symbols if _TAG.fullmatch(symbol)}
        names |= {piece.text for piece in self.pieces or () if piece.kind in (BYTE, USER_DEFINED)}
        names -= self.dropped(directions)
        names |= self._extremes
        if self.codec.text.context is not None:
            names.add(self.codec.text.context.separator)
        config = self.model.config
        own = {token for token in (config.source_token, config.target_token) if token is not None}
        own.update(range(len(SPECIALS)))  # a dictionary may list a special token once more, with another id
        if self.pieces is not None:
            of_text = (self.symbols[token] for token in np.flatnonzero(counts_V))
            names |= {character for symbol in of_text if symbol not in SPECIALS for character in symbol}
        return {self.ids[name] for name in names if name in self.ids} | own

    def dropped(self, directions: Collection[Direction]) -> set[str]:
        """Return the tokens of directions that do not stay."""
        prefixes = self.codec.text.prefixes
        kept = {token for each in map(str, directions) for token in prefixes.get(each, ())}
        return {token for prefix in prefixes.values() for token in prefix} - kept

    def parts_of(self, token: int) -> Collection[int]:
        """Return the ids of the symbols from which a token is merged."""
        symbol = self.symbols[token]
        if self._rank is None or symbol in SPECIALS or symbol not in self._normal:
            return ()
        return [self.ids[part] for part in bpe_parts(symbol, self._rank) if part in self.ids]

    @cached_property
    def _normal(self) -> dict[str, float]:
        """Score of each piece that text is cut into."""
        return {piece.text: piece.score for piece in self.pieces or () if piece.kind == NORMAL}

    @cached_property
    def _algorithm(self) -> str | None:
        return None if self.model_file is None else read_facts(self.model_file.read_bytes()).algorithm

    @cached_property
    def _rank(self) -> Rank | None:
        return ranks_by_score(self.pieces or ()) if self._algorithm == "bpe" else None

    @property
    def _extremes(self) -> set[str]:
        """Pieces of a unigram model that stay for their scores."""
        return extreme_pieces(self._normal) if self._algorithm == "unigram" else set()


def languages_of_rules(codec: TextCodec, directions: Sequence[Direction]) -> list[str]:
    """Return the languages by whose rules text is processed: all, or one if the rules are the same for all of them."""
    languages = list(dict.fromkeys(chain.from_iterable(each.sides for each in directions)))
    return languages if codec.text.text.moses or codec.text.text.normalize else languages[:1]


def encode_raw(codec: TextCodec, language: str, lines: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the ids of raw lines by the rules of a language, each ending in </s>."""
    words = [codec.text.preprocess(line, language) for line in lines]
    return [ids.astype(np.int64) for ids in codec.encode_source(words)]


@dataclass(frozen=True)
class _Trimmed:
    """Vocabulary of the new checkpoint.

    Attributes:
        original: the original checkpoint.
        kept: ids in the original of the tokens that stay, in ascending order.
        directions: directions that stay.
    """

    original: _Original
    kept: NDArray[np.int64]
    directions: tuple[Direction, ...]

    @cached_property
    def names(self) -> set[str]:
        """Tokens that stay."""
        return {self.original.symbols[token] for token in self.kept.tolist()}

    def write_text(self, folder: Path) -> list[Path]:
        """Write tokenizer, dictionaries and text processing, and return their paths."""
        codec, source = self.original.codec, self.original.folder
        shutil.copytree(source / "tokenizer", folder / "tokenizer")
        if self.original.model_file is not None and self.original.pieces is not None:
            file = folder / "tokenizer" / self.original.model_file.name
            pieces = [piece for piece in self.original.pieces if self._stays(piece)]
            file.write_bytes(with_pieces(self.original.model_file.read_bytes(), pieces))
            index = read_json_object(folder / "tokenizer" / "tokenizer.json")
            side = {"file": file.name, "sha256": file_sha256(file)}
            write_json(folder / "tokenizer" / "tokenizer.json", {**index, "source": side, "target": side}, indent=2)
        write_json(folder / TEXT_FILE, self._text().to_dict())
        for lang in codec.text.direction.sides:
            _cut_dictionary(codec.src_dictionary, self.kept).save(folder / f"dict.{lang}.txt")
        return codec.companions(folder)

    def _text(self) -> TextProcessor:
        text = self.original.codec.text
        return replace(text, directions=self.directions) if text.directions else text

    def _stays(self, piece: Piece) -> bool:
        """Return whether a piece stays; those that are not in the dictionary do, as they cost nothing."""
        if piece.kind == USER_DEFINED:
            return piece.text not in self.original.dropped(self.directions)
        return piece.kind != NORMAL or piece.text in self.names or piece.text not in self.original.ids


def _cut_dictionary(dictionary: Dictionary, kept: NDArray[np.int64]) -> Dictionary:
    """Return a dictionary to be saved, with the tokens that stay and their counts."""
    made = Dictionary()
    made.symbols = [dictionary.symbols[token] for token in kept.tolist()]
    made.counts = [dictionary.counts[token] for token in kept.tolist()]
    return made


def _check_segmentation(folder: Path, trimmed: _Trimmed, texts: Sequence[Path]) -> None:
    """Check that the first lines of each file are cut as by the original, if their tokens all stay.

    Raises:
        UserError: if one is not, which means that the tokenizer has options that this module does not know.
    """
    original, new = trimmed.original, TextCodec.load(folder)
    new_of_old = np.full(len(original.symbols), -1)
    new_of_old[trimmed.kept] = np.arange(len(trimmed.kept))
    lines = checked_lines(texts)
    for language in languages_of_rules(original.codec, trimmed.directions):
        both = (encode_raw(codec, language, lines) for codec in (original.codec, new))
        for line, old, found in zip(lines, *both, strict=True):
            wanted = new_of_old[old]
            if (wanted >= 0).all() and not np.array_equal(wanted, found):
                raise UserError(f"{original.folder}: cannot be trimmed: {line[:80]!r} would be cut into other tokens")


# -------------------------------------------------------------------------------------------------------------- weights


def _cut_model(model: Transformer, kept: NDArray[np.int64]) -> Transformer:
    """Return a model with the rows that stay."""
    new_of_old: Mapping[int, int] = {old: new for new, old in enumerate(kept.tolist())}
    description = describe_model(model)
    description |= {"src_vocab_size": len(kept), "tgt_vocab_size": len(kept)}
    own = {name: description["config"].get(name) for name in ("source_token", "target_token")}
    description["config"] |= {name: new_of_old[token] for name, token in own.items() if token is not None}
    made, rows = build_model(description), torch.from_numpy(kept)
    weights: dict[str, Tensor] = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(weights[name][rows] if name in _ROWS else weights[name])
    return made.eval()
