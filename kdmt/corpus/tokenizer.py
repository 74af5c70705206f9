"""Subword models with a common interface: SentencePiece and BPE of subword-nmt, learnt or given, given tokenizers of
Hugging Face, and text that is already tokenised.

A `tokenizer/` folder contains the model files and `tokenizer.json`, which lists them with their sha256.
`load_tokenizer` needs nothing else, so the folder can be copied, for example into a checkpoint.

The tokens of tokenised text are separated by single spaces. Any Unicode whitespace in the input counts as a space, so
that `str.split`, and therefore fairseq, finds the same tokens.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray
from subword_nmt.apply_bpe import BPE
from subword_nmt.learn_bpe import learn_bpe

from kdmt.checksum import file_sha256
from kdmt.config import Tokenizer as TokenizerSettings
from kdmt.corpus.character_coverage import count_characters, covering_characters
from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.corpus.huggingface_tokenizer import HuggingFaceModel
from kdmt.corpus.sentencepiece_file import BYTE, NORMAL, USER_DEFINED, ModelFacts, read_facts
from kdmt.corpus.subword_model import SubwordModel, Surfaces, on_one_line
from kdmt.corpus.subwords import join_subwords
from kdmt.errors import UserError
from kdmt.files import atomic_folder, check_file, check_keys, read_json_object, write_json
from kdmt.languages import Direction
from kdmt.types import BOS, EOS, PAD, SPECIALS, UNK

MAX_CACHED_WORDS = 1_000_000  # about 200 MB
_LONGEST_CACHED_WORD = 100  # characters
_MAX_LINE_BYTES = 1 << 16  # longer lines are skipped by SentencePiece; its default would be 4192
# The last bits of SentencePiece's unigram estimates depend on the number of threads, so the number is fixed.
TRAINING_THREADS = 4


# -------------------------------------------------------------------------------------------------------------- models


class TooLittleText(UserError):
    """The training text is too small for a tokenizer of the requested size."""


class SentencePieceModel(SubwordModel):
    """A SentencePiece model. Text without a piece becomes the token `<unk>`, which is decoded as ` ⁇ `."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError):
            raise UserError(f"{path}: not a SentencePiece model") from None
        pieces = [self._processor.id_to_piece(number) for number in range(self._processor.get_piece_size())]
        pieces[self._processor.unk_id()] = SPECIALS[UNK]  # a given model may spell it differently
        super().__init__(pieces)
        for number, piece in enumerate(pieces):  # a given model may have text pieces that are spelled like specials
            if piece in SPECIALS[:UNK] and not self._processor.is_control(number):
                self.literal_specials[number] = piece
                self.symbols[number] = SPECIALS[UNK]

    def encode_ids(self, lines: Sequence[str], threads: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        # The only whitespace in a printable line is the space, so such a line needs no change.
        spaced = [line if line.isprintable() else " ".join(line.split()) for line in lines]
        ids = self._processor.encode(spaced, out_type=int, num_threads=threads)
        sizes = np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))
        tokens = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(sizes.sum()))
        return tokens, sizes

    def decode(self, tokenised: str) -> str:
        return on_one_line(self._processor.decode(tokenised.split()))

    @property
    def facts(self) -> ModelFacts:
        """Facts of the model file."""
        return read_facts(self._processor.serialized_model_proto())

    def pieces_of_type(self, kind: int) -> list[str]:
        """Return the pieces of a type, such as `BYTE`, in the order of their ids."""
        return [piece for piece, found in zip(self.symbols, self.facts.piece_types, strict=False) if found == kind]

    def scores(self) -> tuple[str, dict[str, float]]:
        """Return the algorithm of the model, and the score of each piece that it cuts text into.

        Specials, bytes, user-defined symbols and unused pieces are no such pieces.
        """
        facts = self.facts
        return facts.algorithm, {
            piece: self._processor.get_score(number)
            for number, (piece, kind) in enumerate(zip(self.symbols, facts.piece_types, strict=False))
            if kind == NORMAL and piece not in SPECIALS
        }

    def surfaces(self, symbols: Sequence[str]) -> Surfaces:
        """Return the text of each symbol as decoded by the library, which removes the first symbol's leading space.

        `edge` is None for a symbol without text at the start of a line, because the next symbol then counts as the
        first. Both texts are None for bytes, because several bytes form one character.
        """
        firsts = self._decode_all([[symbol] for symbol in symbols])
        lasts = self._decode_all([["a", symbol] for symbol in symbols])  # "a" is decoded as "a", piece or not
        middles = self._decode_all([["a", symbol, "a"] for symbol in symbols])
        inner = [
            last[1:] if middle == f"{last}a" and self._is_whole_word(symbol) else None
            for symbol, last, middle in zip(symbols, lasts, middles, strict=True)
        ]
        edge = [first if text is not None and first else None for first, text in zip(firsts, inner, strict=True)]
        joined = [symbol for symbol, text in zip(symbols, inner, strict=True) if text is not None]
        if self._processor.decode(["a", *joined]) != "a" + "".join(text for text in inner if text is not None):
            inner = edge = [None] * len(symbols)  # joined text is changed, for example by denormalisation
        return Surfaces(inner, edge, "first")

    def _decode_all(self, lines: list[list[str]]) -> list[str]:
        return self._processor.decode(lines, num_threads=1) if lines else []

    def _is_whole_word(self, symbol: str) -> bool:
        return symbol.split() == [symbol] and not self._processor.is_byte(self._processor.piece_to_id(symbol))


class SubwordNmtModel(SubwordModel):
    """BPE of subword-nmt, applied without a vocabulary threshold. `@@` ends a token that continues in the next one.

    It runs in one process: each word is cut once and then looked up, which is faster than sending lines to other
    processes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(SPECIALS)
        self._take_specials_for_words()
        try:
            with path.open(encoding="utf-8-sig") as codes:  # a byte order mark would hide the version line
                self._bpe = BPE(codes)
        except (SystemExit, ValueError):  # subword-nmt exits on a line that it cannot read
            raise UserError(f"{path}: not a file of subword-nmt merge operations") from None
        self._word_ids: dict[str, list[int]] = {}

    def encode_ids(self, lines: Sequence[str], threads: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:  # noqa: ARG002
        tokens: list[int] = []
        ends = np.empty(len(lines) + 1, dtype=np.int64)
        ends[0] = 0
        for number, line in enumerate(lines, start=1):
            for word in line.split():
                tokens += self._word_ids.get(word) or self._cut(word)
            ends[number] = len(tokens)
        return np.array(tokens, dtype=np.int32), np.diff(ends).astype(np.int32)

    def decode(self, tokenised: str) -> str:
        return re.sub(r"@@( |$)", "", tokenised)

    def surfaces(self, symbols: Sequence[str]) -> Surfaces:
        alone = [" " not in symbol and "\n" not in symbol for symbol in symbols]  # as in the expression of `decode`
        inner = [symbol[:-2] if symbol.endswith("@@") else f"{symbol} " for symbol in symbols]
        return Surfaces(
            [text if ok else None for text, ok in zip(inner, alone, strict=True)],
            [symbol.removesuffix("@@") if ok else None for symbol, ok in zip(symbols, alone, strict=True)],
            "last",
        )

    def merges(self) -> tuple[dict[tuple[str, str], int], dict[str, tuple[str, str]], tuple[int, ...]]:
        """Return the rank of each merge, the pair that each merged symbol is made of, and the version of the file."""
        return self._bpe.bpe_codes, self._bpe.bpe_codes_reverse, self._bpe.version

    def _cut(self, word: str) -> list[int]:
        if len(self._word_ids) >= MAX_CACHED_WORDS:
            self._word_ids.clear()
        ids = [self.symbol_id(token) for token in self._bpe.segment_tokens([word])]
        self._bpe.cache.clear()  # words are cached only in `_word_ids`
        if len(word) <= _LONGEST_CACHED_WORD:
            self._word_ids[word] = ids
        return ids


class WordsModel(SubwordModel):
    """A model for text whose tokens are already separated by spaces, including subwords made by other tools.

    `decode` does not change the tokens, so that written text can be read again; `join` joins them. The model file has
    one line with the joiner of `join_subwords`, or an empty line.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(SPECIALS)
        self._take_specials_for_words()
        self._joiner = path.read_text(encoding="utf-8").strip() or None

    def encode_ids(self, lines: Sequence[str], threads: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:  # noqa: ARG002
        ids = [[self.symbol_id(token) for token in line.split()] for line in lines]
        sizes = np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))
        return np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(sizes.sum())), sizes

    def encode_lines(self, lines: Sequence[str], threads: int = 1) -> list[str]:  # noqa: ARG002
        """See `SubwordModel.encode_lines`. Words get no ids, so that memory does not grow with the text."""
        return [" ".join(SPECIALS[UNK] if word in SPECIALS else word for word in line.split()) for line in lines]

    def decode(self, tokenised: str) -> str:
        return tokenised

    def join(self, words: str) -> str:
        return join_subwords(words, self._joiner)

    def surfaces(self, symbols: Sequence[str]) -> Surfaces:
        return Surfaces([f"{symbol} " for symbol in symbols], list(symbols), "last")


_ModelClass = type[SentencePieceModel] | type[SubwordNmtModel] | type[HuggingFaceModel] | type[WordsModel]
_MODELS: dict[str, _ModelClass] = {
    "sentencepiece": SentencePieceModel,
    "subword-nmt": SubwordNmtModel,
    "huggingface": HuggingFaceModel,
    "words": WordsModel,
}
_SUFFIXES = {"sentencepiece": "model", "subword-nmt": "codes", "huggingface": "json", "words": "words"}


@dataclass(frozen=True)
class Tokenizers:
    """Subword models of both sides. A joint model is the same object for both."""

    source: SubwordModel
    target: SubwordModel


# ------------------------------------------------------------------------------------------------- learning and loading


def train_tokenizer(
    settings: TokenizerSettings, sources: tuple[Path, Path], out_dir: Path, direction: Direction
) -> Tokenizers:
    """Learn the subword models, or copy the given ones, into the folder `out_dir`.

    The same text and settings give the same bytes, independent of the paths of the files and the number of cores.

    Args:
        sources: training text of the source and the target side. A model is learnt from at most
            `settings.train_sentences` lines of it (0: all lines), evenly spaced or drawn with `settings.seed`.
        out_dir: output folder. It is written under a temporary name and renamed; an existing folder is replaced.
        direction: translation direction, whose languages are the names of the two models.

    Raises:
        UserError: if a file is missing or not UTF-8, a given model cannot be read or has no bytes for
            `settings.byte_fallback`, or the vocabulary is too large or too small for the text (with the limit).
    """
    suffix = _SUFFIXES[settings.type]
    names = [f"joint.{suffix}"] if settings.joint else [f"{lang}.{suffix}" for lang in direction.sides]
    texts = [list(sources)] if settings.joint else [[path] for path in sources]
    given = (settings.source_path, settings.target_path)
    with atomic_folder(out_dir) as folder:
        for name, text, model in zip(names, texts, given, strict=False):
            content = _learn(settings, text) if model is None else _read_given(Path(model), settings.type)
            (folder / name).write_bytes(content)
        sides = [{"file": name, "sha256": file_sha256(folder / name)} for name in (names[0], names[-1])]
        description = {"type": settings.type, "langs": list(direction.sides), "source": sides[0], "target": sides[1]}
        write_json(folder / "tokenizer.json", description, indent=2)
        # these fail on an invalid given model before an existing folder is replaced
        required_symbols(settings, load_tokenizer(folder))
        shutil.rmtree(out_dir, ignore_errors=True)
    return load_tokenizer(out_dir)


def load_tokenizer(folder: Path) -> Tokenizers:
    """Load the models of a `tokenizer/` folder.

    Raises:
        UserError: if a file is missing or is not the one that `tokenizer.json` describes.
    """
    model_class, files = _described(folder)
    source = model_class(files[0])
    return Tokenizers(source, source if files[0] == files[1] else model_class(files[1]))


def tokenizer_files(folder: Path) -> tuple[Path, Path]:
    """Return the files of the source and the target model of a `tokenizer/` folder, the same file for a joint model.

    Raises:
        UserError: as for `load_tokenizer`.
    """
    return _described(folder)[1]


def _described(folder: Path) -> tuple[_ModelClass, tuple[Path, Path]]:
    """Return the class of the models in a `tokenizer/` folder and their files, after checking the files."""
    index = folder / "tokenizer.json"
    description = read_json_object(index, required={"type": str, "source": dict, "target": dict})
    sides = [description[side] for side in ("source", "target")]
    for side in sides:
        check_keys(side, {"file": str, "sha256": str}, str(index))
    model_class = _MODELS.get(description["type"])
    if model_class is None:
        raise UserError(f"{index}: 'type' is {description['type'][:80]!r}, expected one of {', '.join(_MODELS)}")
    files = [(folder / side["file"], side["sha256"]) for side in sides]
    for path, sha256 in files:
        if path.parent != folder:
            raise UserError(f"{index}: names a file that is not in the same folder")
        if file_sha256(path) != sha256:
            raise UserError(f"{path}: not the file that {index} describes (its sha256 differs)")
    return model_class, (files[0][0], files[1][0])


def learnt_size(model: SubwordModel) -> int:
    """Return the size of a learnt model in the unit of `vocab_size`: merges of subword-nmt, otherwise pieces.

    The model must not have encoded text, since it then numbers further symbols.
    """
    return len(model.merges()[0]) if isinstance(model, SubwordNmtModel) else len(model.symbols)


def required_symbols(settings: TokenizerSettings, tokenizers: Tokenizers) -> tuple[list[str], list[str]]:
    """Return the symbols that the dictionaries of both sides must have, whether or not they occur in the text.

    Raises:
        UserError: if a given model has no bytes, and the settings require them.
    """
    source, target = _required(settings, tokenizers.source), _required(settings, tokenizers.target)
    return source, target


def _required(settings: TokenizerSettings, model: SubwordModel) -> list[str]:
    if not isinstance(model, SentencePieceModel):
        return []
    found = model.pieces_of_type(USER_DEFINED) if settings.user_defined_symbols else []
    if not settings.byte_fallback:
        return found
    if not (pieces := model.pieces_of_type(BYTE)):
        raise UserError(f"tokenizer.byte_fallback: {model.path} has no pieces for bytes")
    return [*found, *pieces]


def _read_given(path: Path, kind: str) -> bytes:
    check_file(path, missing="there is no such tokenizer model")
    data = path.read_bytes()
    if kind == "subword-nmt":
        refuse_other_formats(data[:HEAD_BYTES], str(path), sentences=False)
    return data


def _learn(settings: TokenizerSettings, texts: Sequence[Path]) -> bytes:
    if settings.type == "words":
        return f"{settings.remove_bpe or ''}\n".encode()
    read = partial(sample_lines, texts, settings.train_sentences, settings.seed)
    lines = read()
    first = next(lines, None)
    if first is None:
        raise TooLittleText(f"{', '.join(map(str, texts))}: no text to learn a tokenizer from")
    lines = itertools.chain([first], lines)
    assert settings.vocab_size != "auto", "the size is chosen by the number of pairs"
    if settings.type == "sentencepiece":
        return _learn_sentencepiece(settings, settings.vocab_size, lines, read)
    return _learn_bpe(settings.vocab_size, lines)


def _learn_sentencepiece(
    settings: TokenizerSettings, vocab_size: int, lines: Iterator[str], read: Callable[[], Iterator[str]]
) -> bytes:
    """Return the model file.

    Args:
        lines: training text.
        read: function that returns the training text again.

    Raises:
        UserError: if the size is too small for the characters of the text.
        TooLittleText: if it is larger than the text allows; the message has the largest possible size.
    """
    if settings.character_coverage == "auto":
        read = _covered_text(settings, read)
        lines = read()
    try:
        return _train_sentencepiece(settings, vocab_size, lines)
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2]  # without the position in the C++ code
    where = f"tokenizer.vocab_size {vocab_size}"
    if least := re.search(r"required_chars\. \d+ vs (\d+)", reason):
        bytes_too = ", 256 bytes" if settings.byte_fallback else ""
        raise UserError(
            f"{where}: the characters of the text and the special symbols{bytes_too} alone are {least[1]} pieces: set "
            f"at least {least[1]}, or a lower 'character_coverage'"
        )
    if "too high" in reason:
        largest = _largest_size(settings, reason, read)
        raise TooLittleText(
            f"{where}: too large for this text, which allows at most {largest} pieces: set at most {largest}, "
            "'hard_vocab_limit: false', or 'vocab_size: auto'"
        )
    raise UserError(f"{where}: {reason}")


def _covered_text(settings: TokenizerSettings, read: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
    """Return a function that reads the training text without the characters that get no piece.

    SentencePiece itself has one coverage for all characters. With `required_chars` it counts these first and may leave
    out frequent ones, so that the others are taken out of the text here.
    """

    def lines() -> Iterator[str]:
        return (line for line in read() if len(line.encode()) <= _MAX_LINE_BYTES)

    def normalized() -> Iterator[str]:
        normalizer = sentencepiece.SentencePieceNormalizer(rule_name=settings.normalization_rule)
        return (normalizer.normalize(line).replace("▁", " ") for line in lines())

    read_text = lines if settings.normalization_rule == "identity" else normalized
    counts = count_characters(read_text())
    left_out = str.maketrans(dict.fromkeys(set(counts) - set(covering_characters(counts)), " "))
    return lambda: (line.translate(left_out) for line in read_text())


def _largest_size(settings: TokenizerSettings, reason: str, read: Callable[[], Iterator[str]]) -> int:
    """Return the largest size with which a model can be learnt.

    The limit in SentencePiece's message is the number of pieces that were left; for a unigram model, fewer may be left
    if this number is set.
    """
    while limit := re.search(r"<= (\d+)", reason):
        largest = int(limit[1])
        try:
            _train_sentencepiece(settings, largest, read())
        except RuntimeError as error:
            reason = str(error)
        else:
            return largest
    return largest


def _train_sentencepiece(settings: TokenizerSettings, vocab_size: int, lines: Iterator[str]) -> bytes:
    """Return the model file. The text is not normalised here, because it already has its Unicode form and case.

    Raises:
        RuntimeError: from SentencePiece.
    """
    options: dict[str, Any] = {
        "model_type": settings.model,
        "vocab_size": vocab_size,
        # with 'auto', the text has no other characters
        "character_coverage": 1.0 if settings.character_coverage == "auto" else settings.character_coverage,
        "hard_vocab_limit": settings.hard_vocab_limit,
        "byte_fallback": settings.byte_fallback,
        "normalization_rule_name": settings.normalization_rule,
        "max_sentence_length": _MAX_LINE_BYTES,
        # The specials are control symbols, so they are never learnt as pieces and no text can contain one.
        **{"bos_id": BOS, "pad_id": PAD, "eos_id": EOS, "unk_id": UNK},
        "num_threads": TRAINING_THREADS,
        "minloglevel": 2,
    }
    # the model file holds every option that is given, also a default
    options |= {"split_digits": True} if settings.split_digits else {}
    options |= {"user_defined_symbols": settings.user_defined_symbols} if settings.user_defined_symbols else {}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **options)
    return model.getvalue()


def _learn_bpe(num_merges: int, lines: Iterator[str]) -> bytes:
    """Return the merge operations. There are fewer than requested if no pair of symbols occurs twice any more."""
    codes = io.StringIO()
    words = Counter(word for line in lines for word in line.split())
    if all(len(word) == 1 for word in words):
        raise TooLittleText("no word of the training text has two letters: there is nothing for subword-nmt to merge")
    counted = [f"{word} {count}" for word, count in words.items()]
    with contextlib.redirect_stderr(io.StringIO()):  # hides a progress bar
        learn_bpe(counted, codes, num_merges, is_dict=True)
    return codes.getvalue().encode("utf-8")


# -------------------------------------------------------------------------------------------------------- reading text


def read_chunks(path: Path, num_lines: int = 20_000, *, newline: str | None = "\n") -> Iterator[list[str]]:
    """Yield the lines of a UTF-8 file without their end, in chunks of `num_lines`.

    Args:
        newline: as for `open`: by default only `\\n` ends a line; with None, `\\r` and `\\r\\n` do too.

    Raises:
        UserError: if the file is missing or a line is not UTF-8 (the message has the line number).
    """
    try:
        with path.open(encoding="utf-8", newline=newline) as file:
            while chunk := list(itertools.islice(file, num_lines)):
                yield [line.removesuffix("\n") for line in chunk]
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}:{_first_bad_line(path)}: not UTF-8") from None


def count_lines(path: Path) -> int:
    """Return the number of lines of a file, including a last line without `\\n`."""
    count, last = 0, b"\n"
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                count += block.count(b"\n")
                last = block[-1:]
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    return count + (last != b"\n")


def sample_lines(paths: Sequence[Path], limit: int, seed: int | None = None) -> Iterator[str]:
    """Yield at most `limit` lines of all files together (0: all), in their order. Empty lines count but are skipped.

    Args:
        seed: seed of a random draw, in which all sets of lines are equally probable; None for evenly spaced lines.
    """
    total = sum(map(count_lines, paths))
    lines = itertools.chain.from_iterable(chunk for path in paths for chunk in read_chunks(path))
    if not limit or total <= limit:
        drawn: Iterator[bool] = itertools.repeat(True, total)
    else:
        drawn = _draw_evenly(total, limit) if seed is None else _draw_randomly(total, limit, Random(seed))
    for line in itertools.compress(lines, drawn):
        if words := line.split():
            yield " ".join(words)


def _draw_evenly(total: int, limit: int) -> Iterator[bool]:
    return ((number + 1) * limit // total > number * limit // total for number in range(total))


def _draw_randomly(total: int, limit: int, generator: Random) -> Iterator[bool]:
    """Yield whether each line is drawn: with the probability of the lines still missing among those still to come."""
    missing = limit
    for remaining in range(total, 0, -1):
        drawn = generator.random() * remaining < missing
        missing -= drawn
        yield drawn


def _first_bad_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise ValueError(f"{path}: every line is UTF-8 now; was it changed while it was read?")
