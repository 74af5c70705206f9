"""The sentences that a teacher translates: the distinct sentences of one or more texts.

For a teacher with the vocabulary of the data they are ids (`SourceText`); for other teachers they are text, which the
teacher's tokenizer converts to ids (`SourceLines`). Lines are numbered consecutively over all texts. A sentence that
occurs on several lines is decoded once, and all these lines get its translations. Blocks are ranges of the index among
distinct sentences.

Shapes: L lines, U distinct sentences in the order of their first occurrence, N sentences of a block.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.duplicates import DIGEST_BYTES, DuplicateFinder
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.lines import Piece, cut_lines
from kdmt.files import PARTIAL

_CHUNK_LINES = 50_000
_PIECE_LINES = 1000  # lines that are read together to get one of them

# lines of a training text -> ids of a teacher's own vocabulary for each line, ending with </s>
Encode = Callable[[Sequence[str]], Sequence[NDArray[np.integer]]]


class Text(Protocol):
    """Text to translate, accessed by line."""

    def __len__(self) -> int: ...

    def sentences(self, lines_N: NDArray[np.int64]) -> list[NDArray[np.integer]]:
        """Return the ids of the given lines, which must be ascending; each sentence ends with </s>."""
        ...

    def chunks(self) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int32]]]:
        """Yield chunks of content that identifies sentences: concatenated integers, and the size of each sentence."""
        ...


class SourceText:
    """Concatenation of data-bins of the source side.

    Args:
        prefixes: paths of their `.bin` and `.idx` files without the suffix.

    Raises:
        UserError: see `IndexedDataset`.
    """

    def __init__(self, prefixes: Sequence[Path]) -> None:
        self._datasets = [IndexedDataset(prefix) for prefix in prefixes]
        self.starts = np.cumsum([0, *map(len, self._datasets)]).tolist()  # index of each text's first line, and L

    def __len__(self) -> int:
        return int(self.starts[-1])

    def sentences(self, lines_N: NDArray[np.int64]) -> list[NDArray[np.integer]]:
        """Return the ids of the given lines, which must be ascending; each sentence ends with </s>."""
        found: list[NDArray[np.integer]] = []
        for dataset, start, stop in zip(self._datasets, self.starts, self.starts[1:], strict=False):
            here = lines_N[np.searchsorted(lines_N, start) : np.searchsorted(lines_N, stop)] - start
            found += _pick(dataset, here)
        return found

    def chunks(self) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int32]]]:
        """Yield all sentences in chunks: concatenated tokens, and the size of each sentence."""
        for dataset in self._datasets:
            for start in range(0, len(dataset), _CHUNK_LINES):
                yield dataset.read(start, start + _CHUNK_LINES)


class SourceLines:
    """Concatenation of text files. Lines are distinct if their bytes differ, even if their ids are equal.

    Args:
        paths: paths of UTF-8 text files, one sentence per line.
        encode: function that converts lines to ids.
    """

    def __init__(self, paths: Sequence[Path], encode: Encode) -> None:
        self._encode = encode
        self._pieces: list[Piece] = [piece for path in paths for (piece,) in cut_lines([path], _PIECE_LINES)]
        self._starts = np.cumsum([0, *(piece.count for piece in self._pieces)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def sentences(self, lines_N: NDArray[np.int64]) -> list[NDArray[np.integer]]:
        """See `Text.sentences`."""
        found: list[str] = []
        of_piece_N = np.searchsorted(self._starts, lines_N, side="right") - 1
        for number, own in groupby(zip(of_piece_N.tolist(), lines_N.tolist(), strict=True), key=lambda each: each[0]):
            lines = self._pieces[number].read()
            found += [lines[line - int(self._starts[number])] for _, line in own]
        return list(self._encode(found))

    def chunks(self) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int32]]]:
        """See `Text.chunks`."""
        for piece in self._pieces:
            lines = [line.encode() for line in piece.read()]
            yield np.frombuffer(b"".join(lines), dtype=np.uint8), np.fromiter(map(len, lines), np.int32, len(lines))


@dataclass(frozen=True)
class Sources:
    """Assignment of lines to distinct sentences."""

    lines_U: NDArray[np.int64]  # line of each sentence's first occurrence
    hashes_U: NDArray[np.uint64]
    numbers_L: NDArray[np.int64]  # index of the sentence on each line

    def __len__(self) -> int:
        """Return the number of distinct sentences."""
        return len(self.lines_U)


def find_sources(text: Text, *, once: bool, workdir: Path) -> Sources:
    """Find the distinct sentences of a text in bounded memory: 24 bytes per line.

    Args:
        once: True to count equal lines as one sentence, False to count each line as one, as for sampling.
        workdir: existing folder for temporary files of 33 bytes per line.
    """
    hashes_L = np.empty(len(text), dtype="<u8")
    with tempfile.TemporaryDirectory(dir=workdir, prefix=PARTIAL) as scratch:
        finder = DuplicateFinder(Path(scratch))
        done = 0
        for tokens, sizes in text.chunks():
            digests = _digests(tokens, sizes)
            if once:
                finder.add(digests)
            hashes_L[done : done + len(sizes)] = np.frombuffer(digests, dtype="<u8")[::2]
            done += len(sizes)
        if not once:
            every = np.arange(len(text), dtype=np.int64)
            return Sources(every, hashes_L, every)
        return _distinct(finder.find_first(), hashes_L)


def _distinct(first_L: NDArray[np.int64], hashes_L: NDArray[np.uint64]) -> Sources:
    lines_U = np.flatnonzero(first_L == np.arange(len(first_L)))
    return Sources(lines_U, hashes_L[lines_U], np.searchsorted(lines_U, first_L))


def _digests(tokens: NDArray[np.integer], sizes: NDArray[np.int32]) -> bytes:
    """Return a digest of 128 bits for each sentence; the first 64 bits are its hash."""
    data = memoryview(tokens.astype("<i4").tobytes())  # the same type for all vocabulary sizes
    ends = (np.cumsum(sizes, dtype=np.int64) * 4).tolist()
    starts = [0, *ends[:-1]]
    blake = hashlib.blake2b
    return b"".join(
        [blake(data[start:end], digest_size=DIGEST_BYTES).digest() for start, end in zip(starts, ends, strict=True)]
    )


def _pick(dataset: IndexedDataset, lines_N: NDArray[np.int64]) -> list[NDArray[np.integer]]:
    """Return the sentences on the given lines, read together, since the lines of a block are close to each other."""
    if not len(lines_N):
        return []
    first = int(lines_N[0])
    tokens, sizes = dataset.read(first, int(lines_N[-1]) + 1)
    ends = np.cumsum(sizes, dtype=np.int64)
    return [tokens[ends[place] - sizes[place] : ends[place]] for place in (lines_N - first).tolist()]
