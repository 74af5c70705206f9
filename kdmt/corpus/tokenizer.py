"""Subword models, SentencePiece and subword-nmt BPE, learnt or given, behind one small interface; and text that is
tokenised already.

A `tokenizer/` folder holds the model files and `tokenizer.json`, which names them with their sha256: copied whole, as
into a checkpoint, it is all that `load_tokenizer` needs.

Tokenised text has its tokens between single spaces. Any Unicode whitespace in the input counts as a space, so that
the tokens are those that `str.split`, and with it fairseq, finds again.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sentencepiece
from numpy.typing import NDArray
from subword_nmt.apply_bpe import BPE
from subword_nmt.learn_bpe import learn_bpe

from kdmt.checksum import file_sha256
from kdmt.config import Tokenizer as TokenizerSettings
from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.corpus.subwords import join_subwords
from kdmt.errors import UserError
from kdmt.files import atomic_folder, check_file, check_keys, read_json_object, write_json
from kdmt.languages import Direction
from kdmt.types import BOS, EOS, PAD, SPECIALS, UNK

MAX_CACHED_WORDS = 1_000_000  # about 200 MB
# SentencePiece's unigram estimates depend on the number of threads in their last bits: the same one everywhere.
TRAINING_THREADS = 4


# -------------------------------------------------------------------------------------------------------------- models


class TooLittleText(UserError):
    """The training text holds too little to learn a tokenizer of the wanted size from."""


@dataclass(frozen=True)
class Surfaces:
    """What each symbol of a vocabulary adds to the text of a line, where that depends on its place alone.

    Attributes:
        inner: its text inside a line; None if it depends on the symbols around it.
        edge: its text as the first or the last of a line, likewise.
        edge_at: which of the two; at the other end it is as inside.
    """

    inner: Sequence[str | None]
    edge: Sequence[str | None]
    edge_at: Literal["first", "last"]


class SubwordModel(ABC):
    """Cuts text into tokens and joins them again.

    `symbols[id]` is the token of each id that `encode_ids` gives. These ids are the model's own, not a dictionary's;
    the list may grow while text is encoded, and no id ever changes its meaning.
    """

    symbols: list[str]

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = list(symbols)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}
        self.literal_specials: dict[int, str] = {}  # ids of words that are spelled like a special: `<unk>`, not it

    def _take_specials_for_words(self) -> None:
        """Give what the text spells like a special symbol an id of its own, whose symbol is `<unk>`."""
        for special in SPECIALS:
            self._ids[special] = len(self.symbols)
            self.literal_specials[len(self.symbols)] = special
            self.symbols.append(SPECIALS[UNK])

    @abstractmethod
    def encode_ids(self, lines: Sequence[str], threads: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Cut lines into the model's own ids.

        Returns:
            tokens, int32 [sum(sizes)], back to back without `</s>`; sizes, int32 [lines].
        """

    @abstractmethod
    def decode(self, tokenised: str) -> str:
        """Text of a tokenised line."""

    @abstractmethod
    def surfaces(self, symbols: Sequence[str]) -> Surfaces:
        """What `decode` makes of each symbol; they need not be the model's own."""

    def join(self, words: str) -> str:
        """Text for people of what `decode` gives; the same but for tokens that are taken as they are."""
        return words

    def encode_lines(self, lines: Sequence[str], threads: int = 1) -> list[str]:
        """Cut lines into tokens, with a single space between two."""
        tokens, sizes = self.encode_ids(lines, threads)
        pieces = iter([self.symbols[number] for number in tokens.tolist()])
        return [" ".join(itertools.islice(pieces, size)) for size in sizes.tolist()]

    def symbol_id(self, token: str) -> int:
        """The id of a whole token, as a corpus tag; one that has none yet is given the next."""
        if token not in self._ids:
            self._ids[token] = len(self.symbols)
            self.symbols.append(token)
        return self._ids[token]


class SentencePieceModel(SubwordModel):
    """A SentencePiece model. What it has no piece for becomes the token `<unk>`, and ` ⁇ ` when decoded."""

    def __init__(self, path: Path) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError):
            raise UserError(f"{path}: not a SentencePiece model") from None
        pieces = [self._processor.id_to_piece(number) for number in range(self._processor.get_piece_size())]
        pieces[self._processor.unk_id()] = SPECIALS[UNK]  # a given model may spell it otherwise
        super().__init__(pieces)
        for number, piece in enumerate(pieces):  # a given model may have such a piece for the text
            if piece in SPECIALS[:UNK] and not self._processor.is_control(number):
                self.literal_specials[number] = piece
                self.symbols[number] = SPECIALS[UNK]

    def encode_ids(self, lines: Sequence[str], threads: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        # A printable line has no whitespace but the space: no need to look for any.
        spaced = [line if line.isprintable() else " ".join(line.split()) for line in lines]
        ids = self._processor.encode(spaced, out_type=int, num_threads=threads)
        sizes = np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))
        tokens = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(sizes.sum()))
        return tokens, sizes

    def decode(self, tokenised: str) -> str:
        return self._processor.decode(tokenised.split())

    def surfaces(self, symbols: Sequence[str]) -> Surfaces:
        """By trial, so that it is the library that says: of a line's first symbol it takes the leading space.

        A symbol that leaves nothing at the start lets the next one be the first; bytes make characters together.
        """
        firsts = self._decode_all([[symbol] for symbol in symbols])
        lasts = self._decode_all([["a", symbol] for symbol in symbols])  # "a" is itself, a piece of the model or not
        middles = self._decode_all([["a", symbol, "a"] for symbol in symbols])
        inner = [
            last[1:] if middle == f"{last}a" and self._stands_alone(symbol) else None
            for symbol, last, middle in zip(symbols, lasts, middles, strict=True)
        ]
        edge = [first if text is not None and first else None for first, text in zip(firsts, inner, strict=True)]
        joined = [symbol for symbol, text in zip(symbols, inner, strict=True) if text is not None]
        if self._processor.decode(["a", *joined]) != "a" + "".join(text for text in inner if text is not None):
            inner = edge = [None] * len(symbols)  # text is changed after joining, as by rules of denormalisation
        return Surfaces(inner, edge, "first")

    def _decode_all(self, lines: list[list[str]]) -> list[str]:
        return self._processor.decode(lines, num_threads=1) if lines else []

    def _stands_alone(self, symbol: str) -> bool:
        return symbol.split() == [symbol] and not self._processor.is_byte(self._processor.piece_to_id(symbol))


class SubwordNmtModel(SubwordModel):
    """BPE of subword-nmt, applied without a vocabulary threshold; `@@` ends a token that goes on in the next.

    One process does it: each word is cut once and then looked up, which is quicker than sending lines to others.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(SPECIALS)
        self._take_specials_for_words()
        try:
            with path.open(encoding="utf-8-sig") as codes:  # behind a mark the line of the version is none
                self._bpe = BPE(codes)
        except (SystemExit, ValueError):  # subword-nmt leaves the process on a line that it cannot read
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
        alone = [" " not in symbol and "\n" not in symbol for symbol in symbols]  # as the expression above sees it
        inner = [symbol[:-2] if symbol.endswith("@@") else f"{symbol} " for symbol in symbols]
        return Surfaces(
            [text if ok else None for text, ok in zip(inner, alone, strict=True)],
            [symbol.removesuffix("@@") if ok else None for symbol, ok in zip(symbols, alone, strict=True)],
            "last",
        )

    def _cut(self, word: str) -> list[int]:
        if len(self._word_ids) >= MAX_CACHED_WORDS:
            self._word_ids.clear()
        ids = [self.symbol_id(token) for token in self._bpe.segment_tokens([word])]
        self._bpe.cache.clear()  # ours is the one cache
        self._word_ids[word] = ids
        return ids


class WordsModel(SubwordModel):
    """Text whose tokens are what stands between spaces, subwords of others' making among them.

    `decode` leaves them as they are, so that text that is written down can be read again; `join` does not. The file
    holds one line, the kind of `join_subwords` or nothing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(SPECIALS)
        self._take_specials_for_words()
        self._joiner = path.read_text(encoding="utf-8").strip() or None

    def encode_ids(self, lines: Sequence[str], threads: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:  # noqa: ARG002
        ids = [[self.symbol_id(token) for token in line.split()] for line in lines]
        sizes = np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))
        return np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(sizes.sum())), sizes

    def decode(self, tokenised: str) -> str:
        return tokenised

    def join(self, words: str) -> str:
        return join_subwords(words, self._joiner)

    def surfaces(self, symbols: Sequence[str]) -> Surfaces:
        return Surfaces([f"{symbol} " for symbol in symbols], list(symbols), "last")


_MODELS: dict[str, type[SentencePieceModel] | type[SubwordNmtModel] | type[WordsModel]] = {
    "sentencepiece": SentencePieceModel,
    "subword-nmt": SubwordNmtModel,
    "words": WordsModel,
}
_SUFFIXES = {"sentencepiece": "model", "subword-nmt": "codes", "words": "words"}


@dataclass(frozen=True)
class Tokenizers:
    """The subword models of both sides; a joint one is the same object twice."""

    source: SubwordModel
    target: SubwordModel


# ------------------------------------------------------------------------------------------------- learning and loading


def train_tokenizer(
    settings: TokenizerSettings, sources: tuple[Path, Path], out_dir: Path, direction: Direction
) -> Tokenizers:
    """Learn the subword models, or copy the given ones, into the folder `out_dir`.

    The same text and settings give the same bytes, wherever the files lie and however many cores there are.

    Args:
        sources: training text of the source and the target side; at most `settings.train_sentences` lines of it are
            learnt from for one model, drawn at even distances; 0 for all.
        out_dir: made anew beside its name and renamed; an older one is replaced.
        direction: names the models of the two sides.

    Raises:
        UserError: when a file is missing or not UTF-8, a given model cannot be read, or the vocabulary is too large
            or too small for the text (with SentencePiece's own limit).
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
        load_tokenizer(folder)  # a given file may be no model at all: say so before an older folder is replaced
        shutil.rmtree(out_dir, ignore_errors=True)
    return load_tokenizer(out_dir)


def load_tokenizer(folder: Path) -> Tokenizers:
    """Load the models of a `tokenizer/` folder.

    Raises:
        UserError: when a file of it is missing or is not the one that `tokenizer.json` describes.
    """
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
            raise UserError(f"{index}: names a file that is not beside it")
        if file_sha256(path) != sha256:
            raise UserError(f"{path}: not the file that {index} describes (its sha256 differs)")
    source = model_class(files[0][0])
    return Tokenizers(source, source if files[0] == files[1] else model_class(files[1][0]))


def _read_given(path: Path, kind: str) -> bytes:
    check_file(path, missing="there is no such tokenizer model")
    data = path.read_bytes()
    if kind == "subword-nmt":
        refuse_other_formats(data[:HEAD_BYTES], str(path), sentences=False)
    return data


def _learn(settings: TokenizerSettings, texts: Sequence[Path]) -> bytes:
    if settings.type == "words":
        return f"{settings.remove_bpe or ''}\n".encode()
    lines = sample_lines(texts, settings.train_sentences)
    first = next(lines, None)
    if first is None:
        raise TooLittleText(f"{', '.join(map(str, texts))}: no text to learn a tokenizer from")
    lines = itertools.chain([first], lines)
    return _learn_sentencepiece(settings, lines) if settings.type == "sentencepiece" else _learn_bpe(settings, lines)


def _learn_sentencepiece(settings: TokenizerSettings, lines: Iterator[str]) -> bytes:
    """The model file. Text is taken as it is: its Unicode form and case are settled before it comes here."""
    options: dict[str, Any] = {
        "model_type": settings.model,
        "vocab_size": settings.vocab_size,
        "character_coverage": settings.character_coverage,
        "hard_vocab_limit": True,
        "byte_fallback": False,
        "normalization_rule_name": "identity",
        "max_sentence_length": 1 << 16,  # bytes; longer lines are passed over, and the default would be 4192
        # As control symbols the specials are never learnt as pieces, so that no text can spell one.
        **{"bos_id": BOS, "pad_id": PAD, "eos_id": EOS, "unk_id": UNK},
        "num_threads": TRAINING_THREADS,
        "minloglevel": 2,
    }
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **options)
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2]  # before it stands the line of C++ that noticed
        error_type = TooLittleText if "too high" in reason else UserError
        raise error_type(f"tokenizer.vocab_size {settings.vocab_size}: {reason}") from None
    return model.getvalue()


def _learn_bpe(settings: TokenizerSettings, lines: Iterator[str]) -> bytes:
    """The merge operations, fewer than asked for where no pair of symbols is seen twice any more."""
    codes = io.StringIO()
    words = Counter(word for line in lines for word in line.split())
    if all(len(word) == 1 for word in words):
        raise TooLittleText("no word of the training text has two letters: there is nothing for subword-nmt to merge")
    counted = [f"{word} {count}" for word, count in words.items()]
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        learn_bpe(counted, codes, settings.vocab_size, is_dict=True)
    return codes.getvalue().encode("utf-8")


# -------------------------------------------------------------------------------------------------------- reading text


def read_chunks(path: Path, num_lines: int = 20_000, *, newline: str | None = "\n") -> Iterator[list[str]]:
    """Lines of a UTF-8 file without their end, so many at a time.

    Args:
        newline: as for `open`: by default nothing but `\\n` ends a line, with None `\\r` and `\\r\\n` do too.

    Raises:
        UserError: when the file is missing, or naming the line that is not UTF-8.
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
    """Lines of a file, a last one without `\\n` counted too."""
    count, last = 0, b"\n"
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                count += block.count(b"\n")
                last = block[-1:]
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    return count + (last != b"\n")


def sample_lines(paths: Sequence[Path], limit: int) -> Iterator[str]:
    """At most `limit` lines of all files together (0: all), at even distances; empty ones are drawn but not given."""
    total = sum(map(count_lines, paths))
    lines = itertools.chain.from_iterable(chunk for path in paths for chunk in read_chunks(path))
    for number, line in enumerate(lines):
        drawn = not limit or total <= limit or (number + 1) * limit // total > number * limit // total
        if drawn and (words := line.split()):
            yield " ".join(words)


def _first_bad_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise ValueError(f"{path}: every line is UTF-8 now; was it changed while it was read?")
