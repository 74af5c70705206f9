"""Files of word alignments: a line of links `i-j` for each pair, from source token i to target token j, from 0.

This is the format of Pharaoh, fast_align and eflomal. A file `NAME` of a stage has the offsets of its lines in
`NAME.npy`, so that single lines are read.

Shape legend: B sentence pairs, L links.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.batching import BatchLinks
from kdmt.errors import UserError
from kdmt.files import check_file, naming

Links = NDArray[np.int64]  # [L, 2]: source and target token of each link


def parse_links(line: bytes, where: str) -> Links:
    """Return the links of a line.

    Args:
        where: file and line, for messages.

    Raises:
        UserError: if it is not a line of links; the message shows the first part that is none.
    """
    links = []
    for part in line.split():
        source, dash, target = part.partition(b"-")
        if not (dash and source.isdigit() and target.isdigit()):
            shown = part[:40].decode(errors="replace")
            raise UserError(f"{where}: {shown!r} is no link: expected i-j, as in '0-0 1-2', with positions from 0")
        links.append((int(source), int(target)))
    return np.array(links, dtype=np.int64).reshape(-1, 2)


def format_links(links: Links) -> str:
    """Return the line of some links, without its end, in the order of the target tokens."""
    ordered = links[np.lexsort((links[:, 0], links[:, 1]))]
    return " ".join(f"{source}-{target}" for source, target in ordered.tolist())


class LinksWriter:
    """Writer of a file of links and the offsets of its lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = [0]
        self._file: IO[bytes] | None = None

    def __enter__(self) -> LinksWriter:
        self._file = self._path.open("wb")
        return self

    def add(self, links: Links) -> None:
        """Write the links of the next pair."""
        assert self._file is not None
        line = f"{format_links(links)}\n".encode()
        with naming(self._path):
            self._file.write(line)
        self._starts.append(self._starts[-1] + len(line))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        with naming(self._path):
            self._file.close()
        if kind is None:
            with naming(offsets_path(self._path)):
                np.save(offsets_path(self._path), np.array(self._starts, dtype=np.int64))


def offsets_path(path: Path) -> Path:
    """Return the file with the offsets of the lines of a file of links."""
    return path.with_name(f"{path.name}.npy")


class LinkFile:
    """A file of links that `LinksWriter` wrote, of which lines are read by their index."""

    def __init__(self, path: Path) -> None:
        check_file(path)
        self._starts = np.load(offsets_path(path), mmap_mode="r")
        self._text = np.memmap(path, dtype=np.uint8, mode="r") if self._starts[-1] else np.zeros(0, dtype=np.uint8)
        if len(self._text) != self._starts[-1]:
            raise UserError(f"{path}: {len(self._text)} bytes, its offsets count {self._starts[-1]}")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def line(self, index: int) -> bytes:
        """Return a line with its end."""
        return self._text[self._starts[index] : self._starts[index + 1]].tobytes()


class LinkSource:
    """The links of several concatenated data-bins."""

    def __init__(self, files: Sequence[LinkFile]) -> None:
        self._files = files
        self._starts = np.cumsum([0, *map(len, files)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def load(self, indices: Sequence[int] | NDArray[np.integer], weights_B: NDArray[np.float32] | None) -> BatchLinks:
        """Return the links of these pairs, in the given order.

        Args:
            weights_B: weight of each pair; None for 1.
        """
        import torch

        lines = [self._line(int(index)) for index in indices]
        numbers = np.array(b" ".join(lines).replace(b"-", b" ").split(), dtype=np.int64).reshape(-1, 2)
        row_L = np.repeat(np.arange(len(lines)), [line.count(b"-") for line in lines])
        # the links of a token follow each other
        first_L = np.ones(len(row_L), dtype=bool)
        first_L[1:] = (np.diff(row_L) != 0) | (np.diff(numbers[:, 1]) != 0)
        group_L = np.cumsum(first_L) - 1
        weight_L = 1.0 / np.bincount(group_L)[group_L] if len(row_L) else np.zeros(0)
        num_tokens = float(first_L.sum())
        if weights_B is not None:
            weight_L = weight_L * weights_B[row_L]
            num_tokens = float(weights_B[row_L[first_L]].astype(np.float64).sum())
        return BatchLinks(
            place_3L=torch.from_numpy(np.stack([row_L, numbers[:, 1], numbers[:, 0]])),
            weight_L=torch.from_numpy(weight_L.astype(np.float32)),
            num_tokens=num_tokens,
        )

    def _line(self, index: int) -> bytes:
        number = bisect_right(self._starts, index) - 1
        return self._files[number].line(index - self._starts[number])


def words_of_tokens(symbols: Sequence[str], tags: Sequence[str] = ()) -> NDArray[np.int64]:
    """Return the index of the word that each token of a line belongs to, by the marks of SentencePiece or subword-nmt.

    Args:
        symbols: tokens of the line, without </s>.
        tags: tokens that may be before the words of the line and belong to none of them; their index is -1.
    """
    num_tags = next((place for place, symbol in enumerate(symbols) if symbol not in tags), len(symbols))
    if num_tags:
        return np.concatenate([[-1] * num_tags, words_of_tokens(symbols[num_tags:])])
    if any(symbol.startswith("▁") for symbol in symbols):
        begins = [symbol.startswith("▁") for symbol in symbols]
    else:
        begins = [True, *(not symbol.endswith("@@") for symbol in symbols)][: len(symbols)]
    if begins:
        begins[0] = True
    return np.cumsum(np.array(begins, dtype=np.int64)) - 1


def links_of_tokens(links: Links, src_word_S: NDArray[np.int64], tgt_word_T: NDArray[np.int64]) -> Links:
    """Return the links between the tokens of linked words: each token of one with each token of the other.

    Args:
        links: links between words.
        src_word_S, tgt_word_T: word of each token.

    Raises:
        IndexError: if there is no such word.
    """
    for side, words in enumerate((src_word_S, tgt_word_T)):
        count = int(words[-1]) + 1 if len(words) else 0
        if len(links) and int(links[:, side].max()) >= count:
            name = ("source", "target")[side]
            raise IndexError(f"the {name} has no word {int(links[:, side].max())}, only {count} words")
    parts = [
        np.stack(np.meshgrid(np.flatnonzero(src_word_S == i), np.flatnonzero(tgt_word_T == j), indexing="ij"), -1)
        for i, j in links.tolist()
    ]
    return np.unique(np.concatenate([part.reshape(-1, 2) for part in parts]), axis=0) if parts else links
