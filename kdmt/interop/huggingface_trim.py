"""Cutting a multilingual model of Hugging Face to the tokens that some text needs.

NLLB, M2M-100 and mBART-50 models have a row for each token in their embeddings and their output projection, most of
them for other languages than those that are wanted. Rows and tokens that stay keep their order and their values, and
get the ids 0, 1, ...; the files of the tokenizer and the configurations are rewritten to match. Text whose tokens all
stay is cut into the same tokens as before:

* BPE (NLLB, M2M-100): all symbols from which a token is merged stay with it (`kdmt.corpus.bpe_parts`).
* Unigram (mBART-50): the best segmentation stays the best if its pieces stay. The pieces with the lowest and the
  highest score stay, because the score of unknown characters depends on them.

OUT/
    config.json, generation_config.json         shape and search settings, with new ids
    model.safetensors                           weights, in the type of the original (or several files and their index)
    tokenizer files                             as in the original; `tokenizer.json` in any case for NLLB and mBART-50
    README.md, trim.json                        origin, numbers of tokens and parameters (`kdmt.interop.trim_record`)

Rows are copied: weights are read file by file, without building the original model. The new one is built as a check.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from kdmt.checksum import file_sha256
from kdmt.corpus.bpe_parts import Rank, bpe_parts, ranks_by_score
from kdmt.corpus.sentencepiece_file import NORMAL, Piece, read_facts, read_pieces, with_pieces
from kdmt.corpus.tokenizer import SentencePieceModel
from kdmt.corpus.vocabulary_choice import choose_tokens, extreme_pieces
from kdmt.errors import UserError
from kdmt.files import atomic_folder, read_json_object, write_json
from kdmt.interop.export_folder import check_new
from kdmt.interop.huggingface import (
    NO_WORD,
    Kind,
    LoadedTokenizer,
    is_language,
    load_weights,
    model_files,
    one_line,
    read_kind,
    read_tokenizer,
)
from kdmt.interop.renumbered_files import (
    TOKEN_LISTS,
    merge_pair,
    renumber_config,
    trim_tokenizer_config,
    trim_tokenizer_json,
)
from kdmt.interop.trim_record import (
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
from kdmt.models.checkpoint import write_tensors
from kdmt.outputs import writing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SENTENCEPIECE = "sentencepiece.bpe.model"
_EMBEDDINGS = (  # weights with a row for each token
    *("model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"),
    "lm_head.weight",
)
_BIAS = "final_logits_bias"  # [1, V]
_SHOWN = 8


def is_huggingface_folder(folder: Path) -> bool:
    """Return whether a folder is that of a Hugging Face model, of any kind.

    Training runs of kdmt have a `config.json` too, with their settings.
    """
    path = folder / "config.json"
    return path.is_file() and not (folder / "model.json").is_file() and "model_type" in read_json_object(path)


def trim_model(folder: Path, out: Path, settings: TrimSettings) -> TrimRecord:
    """Write a Hugging Face model with fewer tokens to a new folder. An error leaves no partial folder.

    Args:
        folder: folder of an NLLB, M2M-100 or mBART-50 model.
        out: the new folder.
        settings: text and limits.

    Raises:
        UserError: if the folder has another kind of model or is damaged, a language or token is unknown, the text is
            empty, nothing of it would stay, or `out` exists.
    """
    kind = _supported_kind(folder)
    check_new(out)
    settings.check_files()
    original = _Original(folder, kind, read_tokenizer(folder, kind))
    languages = _find_languages(folder, original.loaded.languages, settings.languages)
    counts_V = count_text(settings.texts, len(original.names), original.encode)
    check_known(settings.texts, counts_V, original.unknown, original.names)
    required = original.required(counts_V, languages)
    if settings.keep_tokens is not None:
        required |= set(read_token_list(settings.keep_tokens, original.ids))
    not_chosen = [original.unknown, *(original.ids[name] for name in original.dropped(languages))]
    kept = choose_tokens(without_counts(counts_V, not_chosen), required, settings.limits, original.parts_of)
    trimmed = _Trimmed(original, kept, languages)
    files = model_files(folder)
    with writing(out):
        check_new(out)  # once more: another process may have written it in the meantime
        with atomic_folder(out) as aside, _naming_original(aside, folder):
            _trim_weights(files, aside, kept, len(original.names))
            trimmed.write_files(aside)
            _check_tokenizer(aside, trimmed, settings.texts)
            model = load_weights(aside, kind)
            record = TrimRecord(
                settings.command(folder, out),
                {path.name: file_sha256(path) for path in files},
                *_sizes(model, files, aside, len(original.names)),
                TextCounts.count(counts_V, kept, original.unknown),
                tuple(trimmed.languages),
                _note(kind, settings.languages),
            )
            record.write(aside, settings, folder)
    return record


@contextmanager
def _naming_original(aside: Path, folder: Path) -> Iterator[None]:
    """Use the path of the original model in messages about the unfinished new one, which has the same faults.

    Raises:
        UserError: the error of the body, with this path.
    """
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(aside), str(folder))) from None


def _supported_kind(folder: Path) -> Kind:
    model_type = read_json_object(folder / "config.json").get("model_type")
    if model_type not in ("m2m_100", "mbart"):
        raise UserError(
            f"{folder}: NLLB, M2M-100 and mBART-50 models of Hugging Face can be trimmed, and kdmt's own models; this "
            f"is {str(model_type)[:80]!r}"
        )
    return read_kind(folder)


def _find_languages(folder: Path, known: Mapping[str, str], wanted: Sequence[str] | None) -> dict[str, str]:
    """Return the tokens of the languages that stay, by code in the order of the model.

    A language is named as in the model (`deu_Latn`), or by another code of the same language (`de`).
    """
    if not known:
        raise UserError(f"{folder}: its tokenizer has no languages: it is not that of a multilingual model")
    if wanted is None:
        return dict(known)
    codes = {code for name in wanted for code in [_find_language(folder, known, name)]}
    return {code: token for code, token in known.items() if code in codes}


def _find_language(folder: Path, known: Mapping[str, str], name: str) -> str:
    found = [name] if name in known else [code for code in known if is_language(code, name)]
    if len(found) > 1:
        raise UserError(f"--languages: {name!r} may be {' or '.join(found)} in {folder}: write one of them")
    if not found:
        shown = ", ".join(list(known)[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
        raise UserError(f"--languages: the tokenizer of {folder} does not know {name[:80]!r}; it knows {shown}")
    return found[0]


def _note(kind: Kind, languages: Sequence[str] | None) -> str | None:
    if kind != "m2m100" or languages is None:
        return None
    return "M2M100Tokenizer numbers its languages itself, so the tokens of all languages were kept"


# ----------------------------------------------------------------------------------------------------------- tokenizers


@dataclass(frozen=True)
class _Original:
    """Tokenizer of the original model. Ids are those of the model."""

    folder: Path
    kind: Kind
    loaded: LoadedTokenizer

    @property
    def names(self) -> tuple[str, ...]:
        """Token of each row."""
        return self.loaded.names

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of each token."""
        return {name: token for token, name in enumerate(self.names) if not self._is_filler(token)}

    @property
    def unknown(self) -> int:
        """Id of <unk>."""
        return int(self.loaded.tokenizer.unk_token_id)

    def encode(self, lines: list[str]) -> NDArray[np.int64]:
        """Return the ids of all tokens of some lines, one after the other, without special tokens around a line."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self.encode_each(lines)])

    def encode_each(self, lines: list[str]) -> list[NDArray[np.int64]]:
        """Return the ids of each line."""
        return encode_lines(self.loaded, lines)

    def required(self, counts_V: NDArray[np.int64], languages: Mapping[str, str]) -> set[int]:
        """Return the ids that stay in any case: special tokens, languages, and single characters of the text."""
        of_text = [self.names[token] for token in np.flatnonzero(counts_V)]
        characters = {character for name in of_text if name not in self._whole for character in name}
        names = (self._whole - self.dropped(languages)) | characters | self._extremes
        return {self.ids[name] for name in names if name in self.ids}

    def dropped(self, languages: Mapping[str, str]) -> set[str]:
        """Return the tokens of languages that do not stay."""
        return set() if self.kind == "m2m100" else set(self.loaded.languages.values()) - set(languages.values())

    def parts_of(self, token: int) -> Collection[int]:
        """Return the ids of the symbols from which a token is merged."""
        if self._rank is None or self.names[token] in self._whole:
            return ()
        return [self.ids[part] for part in bpe_parts(self.names[token], self._rank) if part in self.ids]

    @cached_property
    def tokenizer_json(self) -> dict[str, Any] | None:
        """Content of `tokenizer.json`, which the tokenizer has even if the folder has not; None for M2M-100."""
        if self.kind == "m2m100":
            return None
        path = self.folder / "tokenizer.json"
        if path.is_file():
            return read_json_object(path)
        return dict(json.loads(self.loaded.tokenizer.backend_tokenizer.to_str()))

    @cached_property
    def pieces(self) -> list[Piece] | None:
        """Pieces of the SentencePiece model, None if the folder has none.

        Raises:
            UserError: if the file is no such model, for example a pointer of Git LFS.
        """
        path = self.folder / _SENTENCEPIECE
        if not path.is_file():
            return None
        SentencePieceModel(path)  # the library checks the file
        return read_pieces(path.read_bytes())

    @cached_property
    def _rank(self) -> Rank | None:
        """Function for the rank of a merge; None if the tokenizer does not merge."""
        if self.tokenizer_json is not None:
            merges = self.tokenizer_json["model"].get("merges")
            return None if merges is None else _ranks_of(map(merge_pair, merges))
        assert self.pieces is not None, "the tokenizer was read"
        if read_facts((self.folder / _SENTENCEPIECE).read_bytes()).algorithm != "bpe":
            return None
        return ranks_by_score(self.pieces)

    @cached_property
    def _whole(self) -> frozenset[str]:
        """Tokens that are no pieces of text: special tokens, languages, and tokens that were added."""
        tokenizer = self.loaded.tokenizer
        names = (*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder, *self.loaded.languages.values())
        return frozenset(map(str, names))

    @cached_property
    def _extremes(self) -> set[str]:
        """Pieces of a unigram model that stay for their scores."""
        if self._rank is not None:
            return set()
        if self.tokenizer_json is not None:
            found = dict(self.tokenizer_json["model"]["vocab"])
        else:
            found = {piece.text: piece.score for piece in self.pieces or () if piece.kind == NORMAL}
        return extreme_pieces({name: score for name, score in found.items() if name not in self._whole})

    def _is_filler(self, token: int) -> bool:
        return self.names[token] == f"{NO_WORD}{token:04d}"


def encode_lines(loaded: LoadedTokenizer, lines: list[str]) -> list[NDArray[np.int64]]:
    """Return the model's ids of each line without special tokens around it; <unk> for ids that have no row."""
    found = loaded.tokenizer(lines, add_special_tokens=False, verbose=False)["input_ids"]
    arrays = (np.array(ids, dtype=np.int64) for ids in found)
    return [np.where(ids < len(loaded.names), ids, int(loaded.tokenizer.unk_token_id)) for ids in arrays]


def _ranks_of(merges: Iterable[tuple[str, str]]) -> Rank:
    ranks = {pair: float(number) for number, pair in enumerate(merges)}
    return lambda left, right: ranks.get((left, right))


@dataclass(frozen=True)
class _Trimmed:
    """Vocabulary of the new model.

    Attributes:
        original: tokenizer of the original model.
        kept: ids in the original model of the tokens that stay, in ascending order.
        wanted: token of the code of each language that was wanted.
    """

    original: _Original
    kept: NDArray[np.int64]
    wanted: Mapping[str, str]

    @cached_property
    def names(self) -> list[str]:
        """Token of each row of the new model."""
        return [self.original.names[token] for token in self.kept.tolist()]

    @cached_property
    def new_ids(self) -> dict[str, int]:
        return {name: token for token, name in enumerate(self.names)}

    @property
    def languages(self) -> dict[str, str]:
        """Token of the code of each language that stays."""
        known = self.original.loaded.languages
        return {code: token for code, token in known.items() if token in self.new_ids}

    def write_files(self, aside: Path) -> None:
        """Write all files but the weights."""
        folder, default = self.original.folder, next(iter(self.wanted))
        new_of_old = {old: new for new, old in enumerate(self.kept.tolist())}
        for name in ("config.json", "generation_config.json"):
            if (folder / name).is_file():
                made = renumber_config(read_json_object(folder / name), new_of_old)
                write_json(aside / name, made | ({"vocab_size": len(self.kept)} if name == "config.json" else {}))
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (folder / name).is_file():
                values = read_json_object(folder / name)
                if name == "tokenizer_config.json":
                    values |= self._class_defaults(values)
                write_json(aside / name, trim_tokenizer_config(values, self.new_ids, self.languages, default))
        for name in ("vocab.json", "added_tokens.json"):
            if (folder / name).is_file():
                tokens = read_json_object(folder / name)
                write_json(aside / name, {token: self.new_ids[token] for token in tokens if token in self.new_ids})
        if self.original.tokenizer_json is not None:
            token = self.original.loaded.languages[default]
            made = trim_tokenizer_json(self.original.tokenizer_json, self.new_ids, token)
            write_json(aside / "tokenizer.json", made, indent=None)
        if self.original.pieces is not None:
            pieces = [piece for piece in self.original.pieces if self._stays(piece)]
            (aside / _SENTENCEPIECE).write_bytes(with_pieces((folder / _SENTENCEPIECE).read_bytes(), pieces))

    def _class_defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings that the class of the tokenizer would otherwise fill with languages that do not stay."""
        known, filled = self.original.loaded.languages, dict[str, Any]()
        if len(self.languages) < len(known):
            if values.get("src_lang") is None:
                filled["src_lang"] = self.original.loaded.tokenizer.src_lang
            if self.original.kind == "nllb" and not any(values.get(name) for name in TOKEN_LISTS):
                filled[TOKEN_LISTS[-1]] = list(known.values())
        return filled

    def _stays(self, piece: Piece) -> bool:
        """Return whether a piece stays; those that are not in the vocabulary of the model do, as they cost nothing."""
        return piece.kind != NORMAL or piece.text in self.new_ids or piece.text not in self.original.ids


# -------------------------------------------------------------------------------------------------------------- weights


def _trim_weights(files: Sequence[Path], aside: Path, kept: NDArray[np.int64], size: int) -> None:
    """Write the weights with the rows that stay, a new file for each file.

    Args:
        files: files of the model (`model_files`).
        aside: folder of the new model.
        kept: rows that stay.
        size: number of rows of the original.
    """
    rows, num_bytes, file_of = torch.from_numpy(kept), 0, dict[str, str]()
    for part in _weight_files(files):
        made = {name: _cut(name, tensor, rows, size, part) for name, tensor in _read_tensors(part).items()}
        file = f"{part.stem.replace('pytorch_model', 'model')}.safetensors"
        write_tensors(aside / file, made, metadata={"format": "pt"})
        num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in made.values())
        file_of |= dict.fromkeys(made, file)
    if any(path.name.endswith(".index.json") for path in files):
        values = {"metadata": {"total_size": num_bytes}, "weight_map": dict(sorted(file_of.items()))}
        write_json(aside / "model.safetensors.index.json", values)


def _weight_files(files: Sequence[Path]) -> list[Path]:
    return [path for path in files if path.suffix in (".safetensors", ".bin")]


def _read_tensors(part: Path) -> dict[str, Tensor]:
    """Return the weights in a file, shared ones once.

    Raises:
        UserError: if it cannot be read, or has more than tensors.
    """
    try:
        if part.suffix == ".safetensors":
            return load_file(part)
        tensors = torch.load(part, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated files, pickles with more than tensors
        raise UserError(f"{part}: the weights cannot be read: {one_line(error)}") from None
    found: dict[int, str] = {}
    order = {name: number for number, name in enumerate(_EMBEDDINGS)}
    for name in sorted(tensors, key=lambda name: (order.get(name, len(order)), name)):
        found.setdefault(tensors[name].data_ptr(), name)  # of shared ones the first, the name that Transformers keeps
    return {name: tensors[name] for name in found.values()}


def _cut(name: str, tensor: Tensor, rows: Tensor, size: int, part: Path) -> Tensor:
    axis = {_BIAS: 1, **dict.fromkeys(_EMBEDDINGS, 0)}.get(name)
    if axis is None:
        return tensor
    if tensor.dim() != 2 or tensor.size(axis) != size:
        raise UserError(f"{part}: {name} is {list(tensor.shape)}, and config.json has {size} tokens")
    return tensor.index_select(axis, rows)


def _sizes(model: PreTrainedModel, files: Sequence[Path], aside: Path, old_rows: int) -> tuple[Size, Size]:
    """Return the sizes of the original and the new model.

    Args:
        model: the new model.
        files: files of the original.
        aside: folder of the new model.
        old_rows: number of rows of the original.
    """
    rows, parameters = int(model.config.vocab_size), dict(model.named_parameters())  # shared ones once
    after = sum(parameter.numel() for parameter in parameters.values())
    of_row = sum(parameters[name].size(1) for name in _EMBEDDINGS if name in parameters)
    before_bytes, after_bytes = (
        sum(path.stat().st_size for path in _weight_files(each)) for each in (files, model_files(aside))
    )
    before = after + (old_rows - rows) * of_row
    return Size(old_rows, before, before_bytes), Size(rows, after, after_bytes)


# ---------------------------------------------------------------------------------------------------------------- check


def _check_tokenizer(aside: Path, trimmed: _Trimmed, texts: Sequence[Path]) -> None:
    """Check that the new tokenizer has the right ids and cuts the first lines of each file as the original one.

    Raises:
        UserError: if it does not, which means that the tokenizer has options that this module does not know.
    """
    original, new = trimmed.original, read_tokenizer(aside, trimmed.original.kind)
    if list(new.names) != trimmed.names:
        wrong = next(old for old, found in zip(trimmed.names, new.names, strict=True) if old != found)
        raise UserError(f"{original.folder}: cannot be trimmed: {wrong!r} would get another id in Transformers")
    new_of_old = np.full(len(original.names), -1)
    new_of_old[trimmed.kept] = np.arange(len(trimmed.kept))
    lines = checked_lines(texts)
    for line, old, found in zip(lines, original.encode_each(lines), encode_lines(new, lines), strict=True):
        wanted = new_of_old[old]
        if (wanted >= 0).all() and not np.array_equal(wanted, found):
            raise UserError(f"{original.folder}: cannot be trimmed: {line[:80]!r} would be cut into other tokens")
