"""Lexical shortlists of Marian: the target tokens that a source token may be translated with.

The text file has a line `target source probability` for each pair of tokens. The binary file, which Bergamot reads, has
the ids of the best target tokens of each source token; all numbers are little-endian:

    uint64 0xF11A48D5013417F5, uint64 checksum of all that follows
    uint64 number of first ids of the vocabulary that are allowed for all sources, uint64 most tokens of a source token
    uint64 number of source tokens + 1, uint64 number of target tokens in all lists
    uint64 place of the list of each source token, and the end of the last list
    uint32 ids of all lists, in ascending order within a list

This module does not load torch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.alignment import align, spread
from kdmt.errors import UserError
from kdmt.files import naming, write_text
from kdmt.interop.marian.rows import SideRows
from kdmt.interop.marian.vocabulary import MARIAN_UNK
from kdmt.types import BOS, EOS, PAD

FIRST = 50  # number of first ids of the vocabulary that are allowed for all sources
BEST = 50  # number of target tokens of each source token, as in the models of Firefox
_LISTED = 100  # number of target tokens of each source token in the text file
_MOST_PAIRS = 200_000
_LEAST = 1e-6  # smallest probability of a pair of tokens
_ITERATIONS = 5
_MAGIC = 0xF11A48D5013417F5
_EMPTY_WORD = BOS  # occurs in no sentence
_MASK = (1 << 64) - 1


class Sentences(Protocol):
    """A sequence of sentences as arrays of kdmt's ids."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.integer]: ...


@dataclass(frozen=True)
class LexicalTable:
    """The most probable target tokens of source tokens, in Marian's ids, sorted by source, then best first.

    Attributes:
        src_P, tgt_P: ids of each pair of tokens, int64 [P].
        probability_P: t(y|x) of each pair, float64 [P].
    """

    src_P: NDArray[np.int64]
    tgt_P: NDArray[np.int64]
    probability_P: NDArray[np.float64]


def learn_table(sources: Sentences, targets: Sentences, source_rows: SideRows, target_rows: SideRows) -> LexicalTable:
    """Learn a table from a binarised parallel corpus, of which at most 200,000 evenly spaced pairs are aligned.

    Args:
        sources, targets: sentences of kdmt's ids, with or without </s> at the end.
        source_rows, target_rows: kdmt's id of each of Marian's ids.

    Raises:
        UserError: if there is no pair of tokens to align.
    """
    chosen = spread(len(sources), _MOST_PAIRS)
    try:
        pairs = align(
            [np.concatenate([[_EMPTY_WORD], _words(sources[i])]) for i in chosen],
            [_words(targets[i]) for i in chosen],
            iterations=_ITERATIONS,
        )
    except ValueError as error:
        raise UserError(f"no lexical shortlist can be learnt: {error}") from None
    order_P = np.lexsort((pairs.tgt_ids_P, -pairs.t_P, pairs.src_ids_P))
    src_P, tgt_P, t_P = pairs.src_ids_P[order_P], pairs.tgt_ids_P[order_P], pairs.t_P[order_P]
    is_first_P = np.diff(src_P, prepend=-1) != 0
    starts_P = np.maximum.accumulate(np.where(is_first_P, np.arange(len(src_P)), 0))
    kept_P = (np.arange(len(src_P)) - starts_P < _LISTED) & (src_P != _EMPTY_WORD) & (t_P > _LEAST)
    src_P, tgt_P, t_P = source_rows.inverse(MARIAN_UNK).index_V[src_P[kept_P]], tgt_P[kept_P], t_P[kept_P]
    tgt_P = target_rows.inverse(MARIAN_UNK).index_V[tgt_P]
    order_P = np.lexsort((tgt_P, -t_P, src_P))
    return LexicalTable(src_P[order_P], tgt_P[order_P], t_P[order_P])


def _words(sentence: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the sentence without </s> and <pad>."""
    tokens = np.asarray(sentence, dtype=np.int64)
    return tokens[(tokens != EOS) & (tokens != PAD)]


def write_table(path: Path, table: LexicalTable, src_pieces: Sequence[str], tgt_pieces: Sequence[str]) -> None:
    """Write the text file, `lex.s2t`.

    Args:
        src_pieces, tgt_pieces: spelling of each of Marian's ids.
    """
    lines = zip(table.tgt_P.tolist(), table.src_P.tolist(), table.probability_P.tolist(), strict=True)
    write_text(path, "".join(f"{tgt_pieces[y]} {src_pieces[x]} {t:.7f}\n" for y, x, t in lines))


def write_binary(path: Path, table: LexicalTable, num_sources: int, *, first: int = FIRST, best: int = BEST) -> None:
    """Write the binary file. See the top of this module.

    Args:
        num_sources: number of tokens of the source vocabulary.
        first: number of first ids of the vocabulary that are allowed for all sources.
        best: number of target tokens of each source token.
    """
    lists = list(_lists(table, num_sources, best))
    offsets = np.cumsum([0, *map(len, lists)], dtype="<u8")
    ids = np.concatenate([*lists, np.empty(0, dtype=np.int64)]).astype("<u4")
    body = struct.pack("<4Q", first, best, len(offsets), len(ids)) + offsets.tobytes() + ids.tobytes()
    with naming(path):
        path.write_bytes(struct.pack("<QQ", _MAGIC, checksum(body)) + body)


def _lists(table: LexicalTable, num_sources: int, best: int) -> Iterator[NDArray[np.int64]]:
    """Yield the ids of the best target tokens of each source token, in ascending order."""
    starts = np.searchsorted(table.src_P, np.arange(num_sources + 1))
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        yield np.sort(table.tgt_P[start : min(start + best, end)])


def checksum(data: bytes) -> int:
    """Return the checksum of Marian: over 64-bit words w, h = h xor (w + 0x9e3779b9 + 64 h + floor(h / 4)).

    Bytes after the last whole word are not included.
    """
    value = 0
    for word in np.frombuffer(data, "<u8", len(data) // 8).tolist():
        value ^= (word + 0x9E3779B9 + (value << 6) + (value >> 2)) & _MASK
    return value
