"""Reader of data-bins made by fairseq: content, checks, and the order in which fairseq reads the sentences.

    dict.<lang>.txt    {train,valid,test}[1,2,...].<src>-<tgt>.<lang>.{bin,idx}

Only the mmap format is supported, which `fairseq-preprocess` writes by default; other formats are recognised by their
first bytes (fairseq/data/indexed_dataset.py, 0.12.2). As in fairseq, a data-bin can be used in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.indexed import IndexedDataset, bin_path, checked_chunks, idx_path
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.recognition import wrong_path

_OTHER_FORMATS = {b"TNTIDX\x00\x00": "lazy or cached", b"HUFFIDX\x00": "huffman"}
_FILE = re.compile(r"(?P<split>.+?)\.(?P<pair>[^.]+-[^.]+)\.(?P<lang>[^.]+)(\.(bin|idx))?")

IntArray = NDArray[np.integer]


@dataclass(frozen=True)
class Split:
    """Token files of a split; `target` is None if the split has only a source."""

    name: str
    source: IndexedDataset
    target: IndexedDataset | None

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class DataBin:
    """fairseq data-bin in one of its two directions."""

    folder: Path
    direction: Direction
    dictionaries: tuple[Dictionary, Dictionary]

    @classmethod
    def open(cls, folder: Path, source_lang: str | None = None, target_lang: str | None = None) -> DataBin:
        """Open a data-bin. Languages that are not given are inferred from file names (`choose_direction`).

        Raises:
            UserError: if there is no such folder, it has another language pair, or a dictionary is missing or damaged.
        """
        direction = choose_direction(folder, source_lang, target_lang)
        source, target = (Dictionary.load(folder / f"dict.{lang}.txt") for lang in direction.sides)
        return cls(folder, direction, (source, target))

    def names(self, kind: str) -> list[str]:
        """Return the names of the consecutive splits `kind`, `kind1`, `kind2`, ...

        fairseq trains on all of `train`, `train1`, `train2`, ...
        """
        names: list[str] = []
        while self._pair_of(name := kind + (str(len(names)) if names else "")):
            names.append(name)
        return names

    def split(self, name: str, *, parallel: bool = False) -> Split:
        """Open a split and check the lengths of its files. Use `check_tokens` to check the tokens.

        Args:
            name: name of the split, such as `test`.
            parallel: whether to refuse a source without a target.

        Raises:
            UserError: if there is no such split, one of its files is missing, damaged or of another format, or the
                sides differ in length.
        """
        pair = self._pair_of(name)
        if pair is None:
            there = ", ".join(sorted({match["split"] for match in _files(self.folder)})) or "none"
            raise UserError(f"{self.folder}: no split {name!r} of {self.direction}: there is {there}")
        source, target = (self.folder / f"{name}.{pair}.{lang}" for lang in self.direction.sides)
        opened = _open_side(source)
        if not parallel and not any(path.exists() for path in _paths(target)):
            return Split(name, opened, None)
        other = _open_side(target)
        if len(opened) != len(other):
            raise UserError(
                f"{idx_path(source)} has {len(opened)} sentences, {idx_path(target)} has {len(other)}: not parallel"
            )
        return Split(name, opened, other)

    def _pair_of(self, split: str) -> str | None:
        """Return the language pair in the file names of a split (`<src>-<tgt>` or reversed), or None without files."""
        for pair in (str(self.direction), str(self.direction.reversed())):
            prefixes = [self.folder / f"{split}.{pair}.{lang}" for lang in self.direction.sides]
            if any(path.exists() for prefix in prefixes for path in _paths(prefix)):
                return pair
        return None


def check_tokens(dataset: IndexedDataset, dictionary: Dictionary) -> None:
    """Check all tokens of a file. See `checked_chunks` for the errors."""
    for _ in checked_chunks(dataset, len(dictionary)):
        pass


def reading_order(split: Split, *, seed: int = 1) -> NDArray[np.int64]:
    """Return the order in which fairseq-generate reads the sentences: by source, then target length, shortest first.

    Sentences of equal lengths keep their order in the data if the split is called `test`. In any other split they have
    a random order, drawn by NumPy's legacy generator with `seed`.
    """
    count = len(split)
    order = np.arange(count) if split.name == "test" else np.random.RandomState(seed).permutation(count)
    if split.target is not None:
        order = order[np.argsort(split.target.sizes[order], kind="stable")]
    return order[np.argsort(split.source.sizes[order], kind="stable")].astype(np.int64)


def cut_batches(
    lengths: IntArray, *, max_tokens: int | None, max_sentences: int | None, multiple: int
) -> list[NDArray[np.int64]]:
    """Divide a sequence of sentences into batches as fairseq does.

    A batch contains as many sentences as fit. If these are `multiple` or more, their number is rounded down to a
    multiple of it.

    Args:
        lengths: number of tokens of each sentence's longer side, in reading order.
        max_tokens: maximum number of padded tokens of a batch's longer side, or None for no limit.
        max_sentences: maximum number of sentences in a batch, or None for no limit.
        multiple: number that divides the size of a batch of at least this size.

    Returns:
        Indices into `lengths` for each batch, int64 [B].

    Raises:
        UserError: if a single sentence has more than `max_tokens` tokens. The message gives its index.
    """
    batches, start = [], 0
    while start < len(lengths):
        size = _fitting(lengths[start:], max_tokens, max_sentences)
        if not size:
            raise UserError(
                f"sentence {start} in the order of reading has {lengths[start]} tokens: more than max_tokens"
            )
        if size >= multiple:
            size -= size % multiple
        batches.append(np.arange(start, start + size))
        start += size
    return batches


def _fitting(lengths: IntArray, max_tokens: int | None, max_sentences: int | None) -> int:
    """Return how many of the first sentences fit into one batch."""
    most = len(lengths) if max_sentences is None else min(max_sentences, len(lengths))
    if max_tokens is None:
        return most
    most = min(most, max_tokens)  # no sentence is shorter than one token
    padded = np.maximum.accumulate(lengths[:most].astype(np.int64)) * np.arange(1, most + 1)
    return int(np.searchsorted(padded, max_tokens, side="right"))


def choose_direction(folder: Path, source_lang: str | None = None, target_lang: str | None = None) -> Direction:
    """Return the direction of a data-bin according to the names of its files.

    If both languages are given, files of this pair must exist, in either direction. Otherwise the languages are
    inferred from language pairs in file names that contain a single hyphen, as in fairseq.

    Raises:
        UserError: if there is no such folder, it is not a data-bin, it has other languages, or the languages are
            ambiguous.
    """
    if not folder.is_dir():
        raise wrong_path(folder, "not a data-bin" if folder.exists() else "there is no such folder")
    pairs = sorted({match["pair"] for match in _files(folder)})
    if not pairs:
        raise wrong_path(folder, "not a data-bin, it has no file <split>.<src>-<tgt>.<lang>.idx")
    if source_lang is None or target_lang is None:
        return _infer_direction(folder, pairs, source_lang, target_lang)
    direction = Direction(source_lang, target_lang)
    if {str(direction), str(direction.reversed())}.isdisjoint(pairs):
        raise _of_others(folder, pairs, source_lang, target_lang)
    return direction


def _infer_direction(folder: Path, pairs: list[str], source_lang: str | None, target_lang: str | None) -> Direction:
    wanted = {lang for lang in (source_lang, target_lang) if lang is not None}
    plain = [pair for pair in pairs if pair.count("-") == 1]
    fitting = [pair for pair in plain if wanted <= set(pair.split("-"))]
    if not fitting and plain == pairs:
        raise _of_others(folder, pairs, source_lang, target_lang)
    if len({frozenset(pair.split("-")) for pair in fitting}) != 1 or (len(fitting) > 1 and not wanted):
        raise UserError(f"{folder}: has {', '.join(fitting or pairs)}: give the source and the target language")
    direction = Direction(*fitting[0].split("-"))
    return direction.reversed() if source_lang == direction.target or target_lang == direction.source else direction


def _of_others(folder: Path, pairs: list[str], source_lang: str | None, target_lang: str | None) -> UserError:
    wanted = f"{source_lang or '...'}-{target_lang or '...'}"
    return UserError(f"{folder}: a data-bin of {', '.join(pairs)}, not of {wanted}")


def _files(folder: Path) -> Iterator[re.Match[str]]:
    """Yield a match for each file whose name ends in a language of the pair in the name."""
    for path in folder.iterdir():
        match = _FILE.fullmatch(path.name)
        if match is not None and (
            match["pair"].startswith(f"{match['lang']}-") or match["pair"].endswith(f"-{match['lang']}")
        ):
            yield match


def _paths(prefix: Path) -> list[Path]:
    """Return the files that may contain a side of a split; the file without an extension contains text."""
    return [idx_path(prefix), bin_path(prefix), prefix]


def _open_side(prefix: Path) -> IndexedDataset:
    """Open a side of a split. Formats other than mmap are refused by name."""
    if prefix.exists() and not idx_path(prefix).exists():
        raise UserError(f"{prefix}: data of fairseq's format 'raw': {_REMEDY}")
    if idx_path(prefix).is_file():
        with idx_path(prefix).open("rb") as file:
            other = _OTHER_FORMATS.get(file.read(8))
        if other is not None:
            raise UserError(f"{idx_path(prefix)}: an index of fairseq's format {other!r}: {_REMEDY}")
    return IndexedDataset(prefix)


_REMEDY = "make the data-bin again with 'fairseq-preprocess --dataset-impl mmap'"
