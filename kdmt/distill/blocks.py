"""Blocks of decoded sentences: one file each, written whole, checked when read.

A block covers the sentences first, ..., first + count - 1 of the training source. Its file is gzip'd JSON lines: a
header (block, first, count, key), a line a sentence (index, source hash, hypotheses with scores), and a footer with the
sha256 of all lines before it. `key` names everything that the content depends on: a file with another key belongs to
another run.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.errors import UserError


@dataclass(frozen=True)
class Decoded:
    """The hypotheses of one sentence, best first."""

    index: int  # line of the training source, from 0
    source_sha: str  # of the source ids, so that a line that moved is noticed
    tokens: tuple[tuple[int, ...], ...]  # target ids without </s>
    scores: tuple[float, ...]  # natural log, length-normalised
    at_limit: tuple[bool, ...]  # which of them reached the maximum length


@dataclass(frozen=True)
class Block:
    number: int
    first: int
    count: int

    def path(self, folder: Path) -> Path:
        return folder / f"{self.number:06d}.jsonl.gz"


def plan_blocks(num_sentences: int, block_size: int) -> list[Block]:
    """Fixed blocks by index; the last one may be shorter."""
    starts = range(0, num_sentences, block_size)
    return [Block(number, start, min(block_size, num_sentences - start)) for number, start in enumerate(starts)]


def write_block(folder: Path, block: Block, key: str, sentences: Sequence[Decoded]) -> Path:
    """Write a block beside its name and rename it.

    Raises:
        UserError: the disk is full; nothing is left under the block's name.
    """
    path = block.path(folder)
    aside = path.with_name(f".partial-{path.name}")
    digest = hashlib.sha256()
    lines = [_header(block, key), *map(_record, sentences)]
    try:
        # no time and no name in the gzip header: the same content is the same file
        with aside.open("wb") as raw:
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as file:
                for line in lines:
                    data = _to_line(line)
                    digest.update(data)
                    file.write(data)
                file.write(_footer(digest.hexdigest()))
            raw.flush()
            os.fsync(raw.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{path}: the disk is full; earlier blocks are kept, run it again to go on") from None
    return path


def read_block(folder: Path, block: Block, key: str) -> Iterator[Decoded]:
    """The sentences of a block, after its whole content was checked.

    Raises:
        UserError: missing, cut short, damaged, of another run, or not the sentences of this block.
    """
    path = block.path(folder)
    lines = _read_lines(path)
    digest = hashlib.sha256()
    for line in lines[:-1]:
        digest.update(line)
    if lines[-1] != _footer(digest.hexdigest()):
        raise UserError(f"{path}: damaged: its checksum does not match")
    if lines[0] != _to_line(_header(block, key)):
        raise UserError(f"{path}: made with another teacher, vocabulary, data or settings")
    if len(lines) != block.count + 2:
        raise UserError(f"{path}: holds {len(lines) - 2} sentences, not {block.count}")
    for offset, line in enumerate(lines[1:-1]):
        record = json.loads(line)
        if "at_limit" not in record:
            raise UserError(f"{path}: in the form of an earlier version")
        if record["index"] != block.first + offset:
            raise UserError(f"{path}: sentence {record['index']} stands where {block.first + offset} should")
        yield Decoded(
            index=record["index"],
            source_sha=record["source"],
            tokens=tuple(tuple(tokens) for tokens in record["tokens"]),
            scores=tuple(record["scores"]),
            at_limit=tuple(record["at_limit"]),
        )


def is_complete(folder: Path, block: Block, key: str) -> bool:
    """Whether the block's file is there, whole and of this run; a damaged one is removed to be decoded again."""
    path = block.path(folder)
    if not path.exists():
        return False
    try:
        for _ in read_block(folder, block, key):
            pass
    except UserError:
        path.unlink()
        return False
    return True


def _read_lines(path: Path) -> list[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            lines = file.readlines()
    except FileNotFoundError:
        raise UserError(f"{path}: the block is missing") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged or cut short: {error}") from None
    if len(lines) < 2 or not lines[-1].endswith(b"\n"):
        raise UserError(f"{path}: cut short")
    return lines


def _header(block: Block, key: str) -> dict[str, Any]:
    return {"block": block.number, "first": block.first, "count": block.count, "key": key}


def _footer(sha256: str) -> bytes:
    return _to_line({"sha256": sha256})


def _record(sentence: Decoded) -> dict[str, Any]:
    return {
        "index": sentence.index,
        "source": sentence.source_sha,
        "tokens": sentence.tokens,
        "scores": sentence.scores,
        "at_limit": sentence.at_limit,
    }


def _to_line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
