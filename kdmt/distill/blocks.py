"""Blocks of decoded sentences: one file per block, written atomically and checked when it is read.

A block covers the sentences first, ..., first + count - 1 of those that are decoded (`kdmt.distill.sources`). Its file
is compressed with gzip and contains a header, which is one line of JSON; the columns of `Decoded`, little-endian, one
after the other; and the SHA-256 of all bytes before it, 32 bytes. The content depends only on the sentences, the
teacher and the settings; it does not contain times or host names. Different machines therefore write identical bytes
for a block if they have the same type of processor, the same libraries and the same number of threads.

The header records what the block was made from (`made_from`: a file with other values is refused) and what it was made
with (`made_with`: libraries, processor, threads; these may differ from block to block).

A block of a pool of candidates (format 4) has one more column than other blocks (format 3): `draws_H`.

Shapes: N sentences, H hypotheses of all sentences, T tokens of all hypotheses.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.indexed import fitting_dtype
from kdmt.errors import UserError
from kdmt.files import PARTIAL, check_file, naming, parse_json
from kdmt.types import EOS, Hypothesis

BLOCKS = "blocks"  # folder of the blocks, inside the stage's folder
FORMAT, POOL_FORMAT = 3, 4
_DIGEST_BYTES = 32
_HEADER_KEYS = {"block", "first", "count", "sources", "made_from", "made_with", "columns"}
_LONGEST_HEADER = 1 << 20  # bytes
_COMPRESSION = 1  # gzip level: higher levels take three times as long and save only 10%


class DamagedBlock(UserError):
    """An error for a block file that is truncated, was changed or is not a block."""


class ForeignBlock(UserError):
    """An error for a block that was made from another teacher, vocabulary, text or other settings."""


@dataclass(frozen=True)
class Block:
    """A range of consecutive sentences among those that are decoded."""

    number: int
    first: int
    count: int

    def path(self, folder: Path) -> Path:
        return folder / f"{self.number:06d}.gz"


@dataclass(frozen=True)
class Decoded:
    """The hypotheses of a block's sentences, best first for each sentence."""

    hashes_N: NDArray[np.uint64]  # hash of each sentence's source ids, to detect lines that have moved
    counts_N: NDArray[np.int32]  # number of hypotheses of each sentence
    scores_H: NDArray[np.float32]  # natural log, length-normalised
    at_limit_H: NDArray[np.uint8]  # 1 for hypotheses that reached the maximum length
    sizes_H: NDArray[np.int32]  # number of tokens of each hypothesis, without </s>
    tokens_T: NDArray[np.integer]  # target ids
    draws_H: NDArray[np.int32] | None = None  # number of times that each was drawn, for a pool of candidates

    @classmethod
    def of(
        cls,
        hypotheses: Sequence[Sequence[Hypothesis]],
        *,
        hashes_N: NDArray[np.uint64],
        max_len_N: Sequence[int],
        vocab_size: int,
        is_pool: bool = False,
    ) -> Decoded:
        """Return the columns for the hypotheses of each sentence.

        Args:
            max_len_N: maximum length of the hypotheses of each sentence.
            is_pool: whether to store how often each hypothesis was drawn.
        """
        flat = [hypothesis for nbest in hypotheses for hypothesis in nbest]
        limits = [limit for nbest, limit in zip(hypotheses, max_len_N, strict=True) for _ in nbest]
        tokens = [_without_eos(hypothesis.tokens) for hypothesis in flat]
        return cls(
            hashes_N=hashes_N,
            counts_N=np.array([len(nbest) for nbest in hypotheses], dtype="<i4"),
            scores_H=np.array([hypothesis.score for hypothesis in flat], dtype="<f4"),
            at_limit_H=np.array([len(h.tokens) >= limit for h, limit in zip(flat, limits, strict=True)], dtype="u1"),
            sizes_H=np.array([len(each) for each in tokens], dtype="<i4"),
            tokens_T=np.array([token for each in tokens for token in each], dtype=fitting_dtype(vocab_size)),
            draws_H=np.array([hypothesis.draws for hypothesis in flat], dtype="<i4") if is_pool else None,
        )

    def hypotheses(self) -> list[list[tuple[int, ...]]]:
        """Return the tokens of each hypothesis of each sentence."""
        flat = np.split(self.tokens_T, np.cumsum(self.sizes_H[:-1])) if len(self.sizes_H) else []
        ends_N = np.cumsum(self.counts_N)
        return [
            [tuple(map(int, tokens)) for tokens in flat[end - count : end]]
            for end, count in zip(ends_N.tolist(), self.counts_N.tolist(), strict=True)
        ]


def plan_blocks(num_sentences: int, block_size: int) -> list[Block]:
    """Return consecutive blocks of fixed size; the last one may be shorter."""
    starts = range(0, num_sentences, block_size)
    return [Block(number, start, min(block_size, num_sentences - start)) for number, start in enumerate(starts)]


def write_block(
    folder: Path, block: Block, decoded: Decoded, *, made_from: Mapping[str, object], made_with: Mapping[str, object]
) -> Path:
    """Write a block to a temporary file in the same folder, and rename it.

    Raises:
        UserError: if the disk is full; no file with the block's name is left.
    """
    path = block.path(folder)
    # a name that no other process uses: a worker that counts as lost may still be writing the same block
    aside = path.with_name(f"{PARTIAL}{os.uname().nodename}-{os.getpid()}-{path.name}")
    try:
        with naming(path), aside.open("wb") as file:
            file.write(_encode(block, decoded, made_from, made_with))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{path}: the disk is full; earlier blocks are kept, run it again to go on") from None
    return path


def read_block(
    folder: Path,
    block: Block,
    *,
    made_from: Mapping[str, object],
    hashes_N: NDArray[np.uint64],
    vocab_size: int | None = None,
) -> tuple[dict[str, Any], Decoded]:
    """Return a block's header and content after a check of the whole file.

    Args:
        made_from: required value of `made_from` in the header.
        hashes_N: hashes of the sources that the block must contain.
        vocab_size: size of the target dictionary; if given, all ids must be smaller.

    Raises:
        DamagedBlock: if the file is missing, truncated or damaged, or its columns are inconsistent.
        ForeignBlock: if it was made with another teacher, vocabulary, text or other settings; the message names the
            difference.
    """
    path = block.path(folder)
    header, decoded = _decode(path)
    _refuse_foreign(path, header["made_from"], made_from)
    if header["block"] != block.number or header["first"] != block.first or header["count"] != block.count:
        raise ForeignBlock(
            f"{path}: holds sentences {header['first']} to {header['first'] + header['count'] - 1}, "
            f"not {block.first} to {block.first + block.count - 1}"
        )
    if not np.array_equal(decoded.hashes_N, hashes_N):
        place = int(np.flatnonzero(decoded.hashes_N != hashes_N)[0])
        raise ForeignBlock(f"{path}: the source of sentence {block.first + place} is not the one of the training text")
    if vocab_size is not None and decoded.tokens_T.size and int(decoded.tokens_T.max()) >= vocab_size:
        raise DamagedBlock(f"{path}: has the id {int(decoded.tokens_T.max())}, the dictionary {vocab_size} symbols")
    return header, decoded


def read_columns(path: Path) -> Decoded:
    """Return the content of a block's file after a check of its checksum only.

    Raises:
        DamagedBlock: if the file is missing or damaged.
    """
    return _decode(path)[1]


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a block's file without a check of the rest.

    Raises:
        DamagedBlock: if the file is missing or not readable.
    """
    _check(path)
    try:
        with gzip.open(path, "rb") as file:
            return _parse_header(path, file.readline(_LONGEST_HEADER))
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedBlock(f"{path}: damaged or cut short: {error}") from None


def fits(path: Path, block: Block, made_from: Mapping[str, object], hashes_N: NDArray[np.uint64]) -> bool:
    """Return whether a file's header matches the block, `made_from` and the sources; the content is not checked."""
    try:
        header = read_header(path)
    except DamagedBlock:
        return False
    place = (header["block"], header["first"], header["count"])
    return (
        place == (block.number, block.first, block.count)
        and header["made_from"] == dict(made_from)
        and header["sources"] == sources_sha256(hashes_N)
    )


def _check(path: Path) -> None:
    try:
        check_file(path, missing="the block is missing")
    except UserError as error:
        raise DamagedBlock(str(error)) from None


def sources_sha256(hashes_N: NDArray[np.uint64]) -> str:
    """Return the hex SHA-256 of the hashes of a block's sentences."""
    return hashlib.sha256(np.ascontiguousarray(hashes_N, dtype="<u8").tobytes()).hexdigest()


def _refuse_foreign(path: Path, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    differences = [
        f"{name} ({found.get(name, 'none')!s:.60}, not {wanted.get(name, 'none')!s:.60})"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differences:
        advice = _LANGUAGE_CHECK_ADVICE if _other_check(found, wanted) else ""
        raise ForeignBlock(f"{path}: made with another {', '.join(differences)}{advice}")


def _other_check(found: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    """Return whether the check of the language of answers differs, which depends on whether py3langid is installed."""
    return found.get("language check") != wanted.get("language check")


_LANGUAGE_CHECK_ADVICE = (
    "; install or remove py3langid, so that it is as before, or remove the folder of the blocks to make them again: "
    "stored answers of an endpoint are not requested again"
)


def _encode(block: Block, decoded: Decoded, made_from: Mapping[str, object], made_with: Mapping[str, object]) -> bytes:
    header = {
        "format": FORMAT if decoded.draws_H is None else POOL_FORMAT,
        "block": block.number,
        "first": block.first,
        "count": block.count,
        "sources": sources_sha256(decoded.hashes_N),
        "made_from": dict(made_from),
        "made_with": dict(made_with),
        "columns": [[each.name, column.dtype.str, len(column)] for each, column in _columns(decoded)],
    }
    content = b"".join(
        [
            json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n",
            *(np.ascontiguousarray(column).tobytes() for _, column in _columns(decoded)),
        ]
    )
    # no time in the gzip header, so that equal content gives equal files
    return gzip.compress(content + hashlib.sha256(content).digest(), compresslevel=_COMPRESSION, mtime=0)


def _columns(decoded: Decoded) -> list[tuple[Any, NDArray[Any]]]:
    columns = [(each, getattr(decoded, each.name)) for each in fields(decoded)]
    return [(each, column) for each, column in columns if column is not None]


def _decode(path: Path) -> tuple[dict[str, Any], Decoded]:
    """Return the header and the columns of a file after a check of its checksum."""
    _check(path)
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedBlock(f"{path}: damaged or cut short: {error}") from None
    if hashlib.sha256(content[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
        raise DamagedBlock(f"{path}: damaged: its checksum does not match")
    start = content.find(b"\n") + 1
    header = _parse_header(path, content[:start])
    columns = {}
    for name, dtype, count in _described_columns(path, header):
        size = count * np.dtype(dtype).itemsize
        if start + size > len(content) - _DIGEST_BYTES:
            raise DamagedBlock(f"{path}: damaged: it is shorter than its columns")
        columns[name] = np.frombuffer(content, dtype=dtype, count=count, offset=start)
        start += size
    if start != len(content) - _DIGEST_BYTES:
        raise DamagedBlock(f"{path}: damaged: it is longer than its columns")
    decoded = Decoded(**columns)
    if problem := _disagreement(header, decoded):
        raise DamagedBlock(f"{path}: damaged: {problem}")
    return header, decoded


_DTYPES = {
    "hashes_N": ("<u8",),
    "counts_N": ("<i4",),
    "scores_H": ("<f4",),
    "at_limit_H": ("|u1",),
    "sizes_H": ("<i4",),
    "tokens_T": ("<u2", "<u4", "<i8"),  # see `fitting_dtype`
}
_DTYPES_OF = {FORMAT: _DTYPES, POOL_FORMAT: {**_DTYPES, "draws_H": ("<i4",)}}  # by the format of the block


def _described_columns(path: Path, header: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return the name, type and length of each column from the header."""
    columns, dtypes = header["columns"], _DTYPES_OF[header["format"]]
    try:
        found = [(str(name), str(dtype), count) for name, dtype, count in columns]
    except (TypeError, ValueError):
        found = []
    if [name for name, _, _ in found] != list(dtypes):
        raise DamagedBlock(f"{path}: damaged: its columns are not {', '.join(dtypes)}")
    for name, dtype, count in found:
        if dtype not in dtypes[name] or type(count) is not int or count < 0:
            raise DamagedBlock(
                f"{path}: damaged: its column {name} has {str(count)[:40]} values of type {dtype[:40]!r}"
            )
    return found


def _disagreement(header: Mapping[str, object], decoded: Decoded) -> str | None:
    """Return what is inconsistent in columns whose checksum is correct, None if nothing is."""
    hypotheses = int(decoded.counts_N.sum(dtype=np.int64))
    lengths = {
        "sources": (len(decoded.hashes_N), header["count"]),
        "numbers of hypotheses": (len(decoded.counts_N), header["count"]),
        "scores": (len(decoded.scores_H), hypotheses),
        "marks of the maximum length": (len(decoded.at_limit_H), hypotheses),
        "sizes": (len(decoded.sizes_H), hypotheses),
        "tokens": (len(decoded.tokens_T), int(decoded.sizes_H.sum(dtype=np.int64))),
    }
    if decoded.draws_H is not None:
        lengths["numbers of draws"] = (len(decoded.draws_H), hypotheses)
        if (decoded.draws_H < 0).any():
            return "a number of draws is negative"
    if (decoded.counts_N < 0).any() or (decoded.sizes_H < 0).any():
        return "a number of hypotheses or a size is negative"
    for name, (found, wanted) in lengths.items():
        if found != wanted:
            return f"it has {found} {name} where {wanted} belong"
    if np.isnan(decoded.scores_H).any():
        return "a score is not a number"
    if (decoded.at_limit_H > 1).any():
        return "a mark of the maximum length is neither 0 nor 1"
    if decoded.tokens_T.size and int(decoded.tokens_T.min()) < 0:
        return "an id is negative"
    return None


def _parse_header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = parse_json(line)
    except ValueError:
        raise DamagedBlock(f"{path}: not a block of decoded sentences") from None
    if not isinstance(header, dict) or header.get("format") not in (FORMAT, POOL_FORMAT):
        raise DamagedBlock(f"{path}: not in the form that this version writes")
    if not header.keys() >= _HEADER_KEYS:
        raise DamagedBlock(f"{path}: damaged: its header is not whole")
    numbers = [header[name] for name in ("block", "first", "count")]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise DamagedBlock(f"{path}: damaged: its header does not say which sentences it holds")
    if not (isinstance(header["made_from"], dict) and isinstance(header["made_with"], dict)):
        raise DamagedBlock(f"{path}: damaged: its header does not say what it was made from")
    return header


def _without_eos(tokens: tuple[int, ...]) -> tuple[int, ...]:
    return tokens[:-1] if tokens and tokens[-1] == EOS else tokens
