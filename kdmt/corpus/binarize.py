"""Binarisation of text: the dictionaries and token files that fairseq-preprocess writes for the same tokenised text.

    data-bin/dict.<lang>.txt    data-bin/<split>.<src>-<tgt>.<lang>.{bin,idx}

The tokenised text itself is never written. Each line is encoded to the tokenizer's own ids, which are counted and
written to a temporary file; when the dictionary is known, they are mapped to its ids and written to the data-bin.
Memory use is a chunk of lines and four bytes for each sentence.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Vocabulary
from kdmt.corpus.indexed import IndexedWriter
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.tokenizer import Tokenizers, count_lines, read_chunks
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.files import naming
from kdmt.languages import Direction
from kdmt.runtime import cores
from kdmt.types import EOS, UNK

CHUNK_LINES = 20_000
Chunk = tuple[NDArray[np.int32], NDArray[np.int32]]  # concatenated tokens [sum(sizes)], sizes [lines]


@dataclass(frozen=True)
class TextPair:
    """Files of clean text; line i of `target` is the translation of line i of `source`.

    If there is a file `tags`, each of its lines is empty or holds one tag, which is put before the source sentence: the
    tokens that `prefixes` has for it, or else the tag itself as one token.
    """

    source: Path
    target: Path
    tags: Path | None = None
    prefixes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def source_tags(self) -> Tags | None:
        """Return the tags of the sources, None if they have none."""
        return None if self.tags is None else Tags(self.tags, self.prefixes)


@dataclass(frozen=True)
class Tags:
    """A file with the tag of each line, and the tokens of tags that are not tokens themselves."""

    path: Path
    prefixes: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenCounts:
    """Counts of what was written for one side: tokens include `</s>`, and `num_unk` of them are `<unk>`.

    `literal_specials` counts words of the text that are spelled like special symbols; they become `<unk>` too.
    """

    num_lines: int
    num_tokens: int
    num_unk: int
    literal_specials: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BinarizedPair:
    source_dictionary: Dictionary
    target_dictionary: Dictionary
    source: TokenCounts
    target: TokenCounts


def data_prefix(data_bin: Path, split: str, direction: Direction, lang: str) -> Path:
    """Return the prefix of the `.bin` and `.idx` files of a split, such as `train.en-de.en`."""
    return data_bin / f"{split}.{direction}.{lang}"


def dictionary_path(data_bin: Path, lang: str) -> Path:
    return data_bin / f"dict.{lang}.txt"


def count_tokens(paths: Iterable[Path]) -> Counter[str]:
    """Count the occurrences of each token in files of tokenised text."""
    counts: Counter[str] = Counter()
    for path in paths:
        for lines in read_chunks(path, CHUNK_LINES):
            counts.update(token for line in lines for token in line.split())
    return counts


def binarize_tokenized(text: Path, dictionary: Dictionary, prefix: Path) -> TokenCounts:
    """Write tokenised text (tokens separated by whitespace) byte for byte as fairseq-preprocess does."""
    return _write(_encode_tokenized(text, dictionary), prefix, len(dictionary))


def build_data_bin(
    data_bin: Path,
    text: TextPair,
    *,
    direction: Direction,
    tokenizers: Tokenizers,
    vocabulary: Vocabulary,
    required: tuple[Sequence[str], Sequence[str]] = ((), ()),
    threads: int = 0,
    split: str = "train",
) -> BinarizedPair:
    """Tokenise the training text, learn its dictionaries and write both into the folder `data_bin`.

    Args:
        vocabulary: settings of the dictionaries; a joined dictionary is counted on both sides together and written
            for both languages.
        required: symbols of each side that its dictionary has in any case.
        threads: number of threads of SentencePiece; 0 for one thread per core.

    Raises:
        UserError: if a file is missing, empty or not UTF-8, or the files differ in length.
    """
    if check_lengths(text) == 0:
        raise UserError(f"{text.source}: the training text is empty")
    data_bin.mkdir(parents=True, exist_ok=True)
    with (
        naming(data_bin),
        tempfile.TemporaryFile(dir=data_bin) as source_file,
        tempfile.TemporaryFile(dir=data_bin) as target_file,
    ):
        source = _spool(
            _encode(text.source, tokenizers.source, threads, text.source_tags), tokenizers.source, source_file
        )
        target = _spool(_encode(text.target, tokenizers.target, threads), tokenizers.target, target_file)
        dictionaries = _learn_dictionaries(source, target, vocabulary, required)
        written = []
        for lang, spool, dictionary in zip(direction.sides, (source, target), dictionaries, strict=True):
            dictionary.save(dictionary_path(data_bin, lang))
            specials: Counter[str] = Counter()
            chunks = _translate(spool.read(), spool.model, dictionary, specials)
            written.append(_write(chunks, data_prefix(data_bin, split, direction, lang), len(dictionary), specials))
    return BinarizedPair(*dictionaries, *written)


def binarize_files(
    data_bin: Path,
    split: str,
    text: TextPair,
    *,
    direction: Direction,
    tokenizers: Tokenizers,
    dictionaries: tuple[Dictionary, Dictionary],
    threads: int = 0,
) -> BinarizedPair:
    """Tokenise text and write it with existing dictionaries: validation, test or distilled text.

    Raises:
        UserError: if a file is missing or not UTF-8, or the files differ in length.
    """
    check_lengths(text)
    data_bin.mkdir(parents=True, exist_ok=True)
    written = []
    sides = ((text.source, tokenizers.source, text.source_tags), (text.target, tokenizers.target, None))
    for lang, dictionary, (path, model, tags) in zip(direction.sides, dictionaries, sides, strict=True):
        prefix = data_prefix(data_bin, split, direction, lang)
        written.append(binarize_text(path, prefix, model=model, dictionary=dictionary, threads=threads, tags=tags))
    return BinarizedPair(*dictionaries, *written)


def binarize_text(
    path: Path, prefix: Path, *, model: SubwordModel, dictionary: Dictionary, threads: int = 0, tags: Tags | None = None
) -> TokenCounts:
    """Tokenise one side of a corpus, or monolingual text, and write it with an existing dictionary."""
    specials: Counter[str] = Counter()
    chunks = _translate(_encode(path, model, threads, tags), model, dictionary, specials)
    return _write(chunks, prefix, len(dictionary), specials)


def check_lengths(text: TextPair) -> int:
    """Return the number of lines, which must be the same in all files of the pair.

    Raises:
        UserError: if the files differ in length; the message names the files and their numbers of lines.
    """
    lengths = {path: count_lines(path) for path in (text.source, text.target, text.tags) if path is not None}
    if len(set(lengths.values())) > 1:
        raise UserError(f"files of different length: {', '.join(f'{path} {n} lines' for path, n in lengths.items())}")
    return lengths[text.source]


def _learn_dictionaries(
    source: _Spool, target: _Spool, settings: Vocabulary, required: tuple[Sequence[str], Sequence[str]]
) -> tuple[Dictionary, Dictionary]:
    def learn(
        model: SubwordModel, counts: Counter[str], threshold: int, nwords: int, required: Sequence[str]
    ) -> Dictionary:
        if model.vocabulary is not None and threshold == 0 and nwords < 1:
            return Dictionary.from_vocabulary(
                [*model.vocabulary, *required], counts, padding_factor=settings.padding_factor
            )
        return Dictionary.from_counts(
            counts,
            threshold=threshold,
            nwords=nwords,
            padding_factor=settings.padding_factor,
            required=required,
        )

    threshold, nwords = settings.threshold, settings.nwords
    if settings.joined:
        joined = learn(source.model, source.counts + target.counts, threshold, nwords, required[0])
        return joined, joined
    target_threshold = threshold if settings.threshold_target is None else settings.threshold_target
    target_nwords = nwords if settings.nwords_target is None else settings.nwords_target
    return (
        learn(source.model, source.counts, threshold, nwords, required[0]),
        learn(target.model, target.counts, target_threshold, target_nwords, required[1]),
    )


# ------------------------------------------------------------------------------------------------- streams of token ids


def _encode_tokenized(text: Path, dictionary: Dictionary) -> Iterator[Chunk]:
    """Yield the ids of tokenised lines, including `</s>`; lines end as in fairseq, with universal newlines."""
    for lines in read_chunks(text, CHUNK_LINES, newline=None):
        encoded = [dictionary.encode_line(line) for line in lines]
        yield np.concatenate(encoded), np.array([len(ids) for ids in encoded], dtype=np.int32)


def _encode(text: Path, model: SubwordModel, threads: int, tags: Tags | None = None) -> Iterator[Chunk]:
    """Yield the model's own ids of each chunk of lines, without `</s>`; the ids of a tag come before its sentence."""
    threads = threads or cores()
    tag_chunks = read_chunks(tags.path, CHUNK_LINES) if tags is not None else iter(())
    for number, (lines, tag_lines) in enumerate(zip_longest(read_chunks(text, CHUNK_LINES), tag_chunks)):
        tokens, sizes = model.encode_ids(lines, threads)
        if tags is not None:
            tokens, sizes = _prepend_tags(tokens, sizes, _tag_ids(tag_lines, model, tags, number * CHUNK_LINES + 1))
        yield tokens, sizes


def _tag_ids(lines: list[str], model: SubwordModel, tags: Tags, first_line: int) -> Chunk:
    """Return the ids of the tags of all lines, int32 [sum(sizes)], and the number of each line's, int32 [lines]."""
    known: dict[str, list[int]] = {"": []}
    for line, tag in enumerate(lines, start=first_line):
        if len(tag.split()) > 1:
            raise UserError(f"{tags.path}:{line}: a tag is one token, found {tag!r}")
        name = tag.strip()
        if name not in known:
            known[name] = [model.symbol_id(token) for token in tags.prefixes.get(name, (name,))]
    ids = [known[tag.strip()] for tag in lines]
    flat = np.array([each for of_line in ids for each in of_line], dtype=np.int32)
    return flat, np.array([len(of_line) for of_line in ids], dtype=np.int32)


def _prepend_tags(tokens: NDArray[np.int32], sizes: NDArray[np.int32], tags: Chunk) -> Chunk:
    tag_ids, tag_sizes = tags
    starts = np.cumsum(sizes, dtype=np.int64) - sizes
    return np.insert(tokens, np.repeat(starts, tag_sizes), tag_ids), sizes + tag_sizes


def _translate(
    chunks: Iterable[Chunk], model: SubwordModel, dictionary: Dictionary, specials: Counter[str]
) -> Iterator[Chunk]:
    """Map the model's ids to those of the dictionary, and add `</s>` after each sentence.

    Args:
        specials: receives the counts of words of the text that are spelled like special symbols.
    """
    table = np.empty(0, dtype=np.int32)
    for tokens, sizes in chunks:
        if len(table) < len(model.symbols):  # the list of symbols grows while text is encoded
            table = np.array([dictionary.index(symbol) for symbol in model.symbols], dtype=np.int32)
        for number, special in model.literal_specials.items():
            specials[special] += int(np.count_nonzero(tokens == number))
        yield np.insert(table[tokens], np.cumsum(sizes, dtype=np.int64), EOS), sizes + 1


def _write(chunks: Iterable[Chunk], prefix: Path, vocab_size: int, specials: Counter[str] | None = None) -> TokenCounts:
    num_lines = num_tokens = num_unk = 0
    with IndexedWriter(prefix, vocab_size) as writer:
        for tokens, sizes in chunks:
            writer.add_flat(tokens, sizes)
            num_lines += len(sizes)
            num_tokens += len(tokens)
            num_unk += int(np.count_nonzero(tokens == UNK))
    return TokenCounts(num_lines, num_tokens, num_unk, dict(+(specials or Counter())))


@dataclass
class _Spool:
    """One side of the corpus as the tokenizer's own ids: tokens in a temporary file, sizes in memory."""

    model: SubwordModel
    file: IO[bytes]
    sizes: list[NDArray[np.int32]] = field(default_factory=list)  # one array per chunk
    id_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def counts(self) -> Counter[str]:
        """Number of occurrences of each token."""
        return Counter({self.model.symbols[i]: int(self.id_counts[i]) for i in np.flatnonzero(self.id_counts)})

    def read(self) -> Iterator[Chunk]:
        self.file.seek(0)
        for sizes in self.sizes:
            data = self.file.read(4 * int(sizes.sum()))
            yield np.frombuffer(data, dtype=np.int32), sizes


def _spool(chunks: Iterable[Chunk], model: SubwordModel, file: IO[bytes]) -> _Spool:
    spool = _Spool(model, file)
    for tokens, sizes in chunks:
        file.write(tokens.data)
        spool.sizes.append(sizes)
        counts = np.bincount(tokens, minlength=len(model.symbols))
        counts[: len(spool.id_counts)] += spool.id_counts
        spool.id_counts = counts
    return spool
