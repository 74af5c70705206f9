"""Format of the folder of a CTranslate2 model: names of its files, and checks. Loads neither torch nor CTranslate2.

    model.bin, config.json                      weights and options, in CTranslate2's formats
    shared_vocabulary.json                      token of each id, or source_ and target_vocabulary.json
    vmap.txt                                    lexical shortlist, if one was added
    translate.json                              options of CTranslate2's translate_batch, for use without kdmt
    model.json                                  shape of the model; with `frame` and symbols.json for foreign models
    tokenizer/, text.json, dict.<lang>.txt      text processing, as in a checkpoint
    checksums.json                              sha256 of each file

`kdmt.interop.ctranslate2_export` and `kdmt.interop.huggingface` write such folders, `kdmt.decode.engines.ctranslate2`
reads them.

Format of `model.bin`, as written by `_serialize` in ctranslate2/specs/model_spec.py (4.8); all numbers are
little-endian:

    uint32 version (6), string name, uint32 revision, uint32 number of variables
    for each variable: string name, uint8 rank, uint32 sizes [rank], uint8 type, uint32 bytes, content
    (aliases of variables)

A string is a uint16 with the number of its bytes, including the closing zero, followed by these bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.checksum import verify_checkpoint
from kdmt.config import Decode, checked
from kdmt.corpus.codec import TEXT_FILE, load_dictionaries, load_text_processor
from kdmt.errors import UserError
from kdmt.files import read_json, read_json_object, read_optional_json, write_json, write_text
from kdmt.interop.export_folder import record_file
from kdmt.models.description import FILE as DESCRIPTION_FILE
from kdmt.models.description import check_size, is_right_to_left, read_description, takes_target_from_source
from kdmt.types import EOS, PAD, SPECIALS

MODEL_FILE = "model.bin"
OPTIONS_FILE = "translate.json"
SHORTLIST_FILE = "vmap.txt"  # name that CTranslate2 expects
SYMBOLS_FILE = "symbols.json"  # token of each of kdmt's ids, for a foreign model
SHARED_VOCABULARY_FILE = "shared_vocabulary.json"
VOCABULARY_FILES = ("source_vocabulary.json", "target_vocabulary.json")
_NOT_OURS = "not a model that 'kdmt export --to ctranslate2' wrote"
_SHOWN = 80  # maximum number of characters of a token in a message


@dataclass(frozen=True)
class Frame:
    """Tokens that a model needs around every sentence, except those that start the decoder and end the target."""

    source_prefix: tuple[str, ...] = ()
    source_suffix: tuple[str, ...] = (SPECIALS[EOS],)
    target_prefix: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFolder:
    """Properties of a CTranslate2 model folder that an engine needs in addition to the weights."""

    path: Path
    max_source_positions: int
    max_target_positions: int
    src_symbols: list[str]  # token of each source id
    tgt_symbols: list[str]  # token of each target id
    vocabulary: list[str]  # token of each column of the model's output
    frame: Frame
    right_to_left: bool = False
    target_from_source: bool = False  # the first token of a source is the target prefix of its translation
    width: int | None = None  # of the decoder; None for a foreign model

    @classmethod
    def open(cls, path: Path, *, shortlist: bool = False) -> ModelFolder:
        """Check a folder and read it.

        Args:
            shortlist: whether a lexical shortlist is required.

        Raises:
            UserError: if the folder is damaged, was not written by kdmt, or lacks a required shortlist.
        """
        if not (path / DESCRIPTION_FILE).is_file() or not is_model_folder(path):
            raise UserError(f"{path}: {_NOT_OURS}")
        verify_checkpoint(path)
        if shortlist and not (path / SHORTLIST_FILE).is_file():
            raise UserError(f"{path}: has no lexical shortlist ({SHORTLIST_FILE})")
        model = read_json_object(path / DESCRIPTION_FILE)
        is_foreign = "frame" in model
        if not is_foreign:
            read_description(path)
        limits = [_position_limit(path, model, f"max_{side}_positions") for side in ("source", "target")]
        src_symbols, vocabulary = (_read_symbols(file) for file in _vocabulary_files(path))
        tgt_symbols, frame = vocabulary, Frame()
        if is_foreign:
            src_symbols = tgt_symbols = _read_symbols(path / SYMBOLS_FILE)
            frame = _read_frame(path, model["frame"], vocabulary)
        _check_symbols(path, model, src_symbols, tgt_symbols, vocabulary)
        check_weights(path / MODEL_FILE)
        reversed_targets = not is_foreign and is_right_to_left(path)
        from_source = not is_foreign and takes_target_from_source(path)
        return cls(
            path,
            limits[0],
            limits[1],
            src_symbols,
            tgt_symbols,
            vocabulary,
            frame,
            reversed_targets,
            from_source,
            None if is_foreign else model["config"]["decoder_embed_dim"],
        )


def is_model_folder(path: Path) -> bool:
    """Return whether a folder holds a CTranslate2 model."""
    return (path / MODEL_FILE).is_file()


# -------------------------------------------------------------------------------------------------------- vocabularies


def _vocabulary_files(folder: Path) -> tuple[Path, Path]:
    """Return the files of the source and the target vocabulary, which may be the same file."""
    shared = folder / SHARED_VOCABULARY_FILE
    if shared.is_file():
        return shared, shared
    source, target = (folder / name for name in VOCABULARY_FILES)
    return source, target


def _read_symbols(path: Path) -> list[str]:
    """Return the token of each id from a vocabulary file."""
    symbols = read_json(path)
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
        raise UserError(f"{path}: not a list of tokens")
    if len(set(symbols)) < len(symbols):
        raise UserError(f"{path}: lists a token twice")
    if SPECIALS[EOS] not in symbols:
        raise UserError(f"{path}: has no {SPECIALS[EOS]}")
    return symbols


def write_symbols(folder: Path, symbols: Sequence[str]) -> None:
    """Write the token of each of kdmt's ids into the folder of a foreign model."""
    write_json(folder / SYMBOLS_FILE, list(symbols), indent=None)


def _position_limit(folder: Path, model: Mapping[str, object], name: str) -> int:
    config = model.get("config")
    try:
        return check_size(config if isinstance(config, dict) else {}, name)
    except UserError as error:
        raise UserError(f"{folder / DESCRIPTION_FILE}: config.{error}") from None


def _read_frame(folder: Path, values: object, vocabulary: Sequence[str]) -> Frame:
    """Return the tokens around every sentence of a foreign model."""
    parts = ("source_prefix", "source_suffix", "target_prefix")
    if not isinstance(values, dict) or set(values) != set(parts):
        raise UserError(f"{folder / DESCRIPTION_FILE}: frame: expected {', '.join(parts)}")
    known = set(vocabulary)
    for name, symbols in values.items():
        if not isinstance(symbols, list) or not all(isinstance(each, str) and each in known for each in symbols):
            raise UserError(f"{folder / DESCRIPTION_FILE}: frame.{name}: not a list of the model's tokens")
    return Frame(**{name: tuple(symbols) for name, symbols in values.items()})


def _check_symbols(
    folder: Path, model: Mapping[str, object], source: Sequence[str], target: Sequence[str], vocabulary: Sequence[str]
) -> None:
    """Check that the vocabularies of a model are those that convert text to ids.

    Raises:
        UserError: if they differ. The message names the file.
    """
    for side, symbols in (("src", source), ("tgt", target)):
        if model.get(f"{side}_vocab_size") != len(symbols):
            raise UserError(
                f"{folder}: its vocabulary has {len(symbols)} {side} tokens, and model.json says "
                f"{str(model.get(f'{side}_vocab_size'))[:_SHOWN]}"
            )
    if strangers := set(vocabulary) - set(target):
        raise UserError(f"{folder}: {min(strangers)[:_SHOWN]!r} is in its vocabulary and not among its symbols")
    if not (folder / TEXT_FILE).exists():
        return
    text = load_text_processor(folder / TEXT_FILE)
    dictionaries = load_dictionaries(folder, text)
    for lang, dictionary, symbols in zip(text.direction.sides, dictionaries, (source, target), strict=True):
        if list(symbols) != dictionary.symbols:
            raise UserError(f"{folder / f'dict.{lang}.txt'}: not the vocabulary of the model in this folder")


# ------------------------------------------------------------------------------------------------------- translate.json


def translate_options(decode: Decode, max_target_positions: int) -> dict[str, object]:
    """Return keyword arguments of `Translator.translate_batch` for a search like that of `kdmt translate`.

    CTranslate2 has one maximum length for all sentences instead of max_len_a and max_len_b, and uses another criterion
    to end the search: see `kdmt.decode.engines.ctranslate2`.
    """
    return {
        "beam_size": decode.beam,
        "length_penalty": decode.lenpen,
        "max_input_length": 0,
        "max_decoding_length": max_target_positions - 1,
        "min_decoding_length": 0,
        "suppress_sequences": [[SPECIALS[PAD]]],
        "end_token": SPECIALS[EOS],
    }


def write_options(folder: Path, options: Mapping[str, object]) -> None:
    """Write `translate.json` into the folder of a model."""
    write_json(folder / OPTIONS_FILE, options)


def proposed_search(folder: Path) -> dict[str, Any]:
    """Return the `beam` and `lenpen` that `translate.json` proposes for a model; empty if there is no such file.

    Raises:
        UserError: if the file does not contain them.
    """
    path = folder / OPTIONS_FILE
    options = read_optional_json(path, required={"beam_size": int, "length_penalty": float})
    if options is None:
        return {}
    found = {"beam": options["beam_size"], "lenpen": float(options["length_penalty"])}
    checked(Decode, str(path), **found)
    return found


# ------------------------------------------------------------------------------------------------------------ shortlist


def add_shortlist(folder: Path, frequent: Iterable[int], of_token: Mapping[int, Iterable[int]]) -> None:
    """Write a lexical shortlist into an exported folder. An existing shortlist is replaced.

    `vmap.txt` has a line for each source token: the token, a tab, and target tokens separated by spaces. The line of
    the empty source token applies to all sources. CTranslate2 adds <s>, </s> and <unk>, and allows for a whole batch
    the target tokens that any source of the batch allows (ctranslate2's src/vocabulary_map.cc).

    Args:
        folder: folder of an exported model.
        frequent: target ids for all sources.
        of_token: mapping from source id to target ids.

    Raises:
        UserError: if the folder is damaged or was not written by kdmt, or a token is not in the vocabulary or contains
            white space.
    """
    verify_checkpoint(folder)
    files = _vocabulary_files(folder)
    if not all(file.is_file() for file in files):
        raise UserError(f"{folder}: {_NOT_OURS}")
    src_symbols, tgt_symbols = map(_read_symbols, files)
    lines = ["\t" + _spelled(frequent, tgt_symbols)]
    for token in sorted(of_token):
        lines.append(f"{_spelled([token], src_symbols)}\t{_spelled(of_token[token], tgt_symbols)}")
    write_text(folder / SHORTLIST_FILE, "".join(f"{line}\n" for line in lines))
    record_file(folder, folder / SHORTLIST_FILE)


def _spelled(tokens: Iterable[int], symbols: Sequence[str]) -> str:
    """Return tokens separated by spaces, without <pad>, which never occurs in an output."""
    tokens = list(tokens)
    if outside := [token for token in tokens if not 0 <= token < len(symbols)]:
        raise UserError(f"the shortlist has token {outside[0]}, the vocabulary {len(symbols)} symbols")
    words = [symbols[token] for token in tokens if token != PAD]
    if broken := [word for word in words if word.split(" ") != [word] or {"\t", "\n", "\r"} & set(word)]:
        raise UserError(f"a shortlist cannot hold {broken[0]!r}: its tokens are divided by spaces and tabs")
    return " ".join(words)


# ------------------------------------------------------------------------------------------------------------ model.bin

VERSION = 6
_FLOATS: dict[int, str] = {0: "<f4", 4: "<f2"}  # type number -> NumPy dtype
_BFLOAT16 = 5
_CHUNK = 1 << 22  # numbers checked at a time


def check_weights(path: Path) -> None:
    """Check that no weight in a `model.bin` is NaN or infinite. In CTranslate2, NaN before a ReLU becomes 0.

    A file of another version is not checked; CTranslate2 refuses versions that it does not support.

    Raises:
        UserError: if a weight is NaN or infinite, in which case the message names the weight, or if the file is
            truncated.
    """
    data: NDArray[np.uint8] = (
        np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    )
    reader = _Reader(data)
    try:
        (version,) = reader.take("<I")
        if version != VERSION:
            return
        reader.string()
        _, variables = reader.take("<II")
        for _ in range(variables):
            name = reader.string()
            (rank,) = reader.take("<B")
            reader.take(f"<{rank}I")
            kind, size = reader.take("<BI")
            if not _is_finite(reader.content(size), kind):
                raise UserError(f"{path}: {name[:80]} has weights that are NaN or infinite")
    except (struct.error, ValueError) as error:
        raise UserError(f"{path}: damaged or cut short: {error}") from None


class _Reader:
    """Reader of consecutive values in an array of bytes."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data, self._place = data, 0

    def take(self, form: str) -> tuple[int, ...]:
        """Read unsigned integers in a format of `struct`."""
        values = struct.unpack_from(form, self._data.data, self._place)
        self._place += struct.calcsize(form)
        return values

    def content(self, size: int) -> NDArray[np.uint8]:
        if self._place + size > len(self._data):
            raise ValueError(f"{size} bytes from byte {self._place} on are not there")
        self._place += size
        return self._data[self._place - size : self._place]

    def string(self) -> str:
        (size,) = self.take("<H")
        return self.content(size).tobytes().rstrip(b"\0").decode("utf-8", errors="replace")


def _is_finite(content: NDArray[np.uint8], kind: int) -> bool:
    if kind == _BFLOAT16:  # upper half of a float32; NaN and infinity have all exponent bits set
        bits = content[: len(content) // 2 * 2].view("<u2")
        return not (bits & 0x7F80 == 0x7F80).any()
    if kind not in _FLOATS:
        return True
    dtype = np.dtype(_FLOATS[kind])
    numbers = content[: len(content) // dtype.itemsize * dtype.itemsize].view(dtype)
    return all(np.isfinite(numbers[start : start + _CHUNK]).all() for start in range(0, len(numbers), _CHUNK))
