"""Tests of block files: round trip, and detection of damaged files and of files from other runs."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import hashlib
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.distill.blocks import (
    Block,
    DamagedBlock,
    Decoded,
    ForeignBlock,
    fits,
    plan_blocks,
    read_block,
    read_header,
    write_block,
)
from kdmt.errors import UserError
from kdmt.types import EOS, Hypothesis

MADE_FROM = {"teacher": "t" * 64, "distill.decode.beam": 5}
MADE_WITH = {"torch": "2.0", "threads": 1}
PARTIAL = f".partial-{socket.gethostname()}-{os.getpid()}-"  # unique per machine: shards may run on several machines
BLOCK = Block(number=3, first=20, count=3)
HASHES = np.array([11, 2**64 - 1, 13], dtype="<u8")
NBEST = [
    [Hypothesis((5, 6, 7), -0.25), Hypothesis((5,), -1.5)],
    [],
    [Hypothesis((), -0.5), Hypothesis((8, 9, EOS), -2.0)],
]
DECODED = Decoded.of(NBEST, hashes_N=HASHES, max_len_N=[3, 3, 3], vocab_size=100)


def write(folder: Path, decoded: Decoded = DECODED) -> Path:
    return write_block(folder, BLOCK, decoded, made_from=MADE_FROM, made_with=MADE_WITH)


def read(
    folder: Path, block: Block = BLOCK, made_from: dict[str, Any] = MADE_FROM, hashes_N: Any = HASHES
) -> tuple[dict[str, Any], Decoded]:
    return read_block(folder, block, made_from=made_from, hashes_N=hashes_N)


def content(decoded: Decoded) -> dict[str, tuple[str, list[Any]]]:
    columns = ((each.name, getattr(decoded, each.name)) for each in dataclasses.fields(decoded))
    return {name: (column.dtype.str, column.tolist()) for name, column in columns if column is not None}


# ---------------------------------------------------------------------------------------------------------- round trip


@given(st.integers(0, 50), st.integers(1, 60))
def test_blocks_cover_every_sentence_once_in_order(num_sentences: int, block_size: int) -> None:
    blocks = plan_blocks(num_sentences, block_size)
    covered = [index for block in blocks for index in range(block.first, block.first + block.count)]
    assert covered == list(range(num_sentences))
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert all(block.count == block_size for block in blocks[:-1])


def test_blocks_sort_by_name_as_by_number(tmp_path: Path) -> None:
    """Shards that are joined in lexical order, 10 before 2, are how others lost their alignment."""
    blocks = plan_blocks(12, 1)
    assert sorted(block.path(tmp_path).name for block in blocks) == [block.path(tmp_path).name for block in blocks]


hypotheses = st.lists(st.tuples(st.lists(st.integers(3, 69_999)), st.floats(-1e6, 0, width=32)), max_size=3)


@given(st.lists(st.tuples(hypotheses, st.integers(0, 2**64 - 1), st.integers(0, 5)), max_size=4), st.booleans())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    sentences: list[tuple[list[tuple[list[int], float]], int, int]],
    closed: bool,
) -> None:
    """The engine may end its hypotheses with </s>, which the limit does not count."""
    folder = tmp_path_factory.getbasetemp()
    found = [
        [Hypothesis((*tokens, *([EOS] if closed else [])), score) for tokens, score in nbest]
        for nbest, _, _ in sentences
    ]
    hashes_N = np.array([sha for _, sha, _ in sentences], dtype="<u8")
    limits = [limit for _, _, limit in sentences]
    block = Block(0, 7, len(sentences))
    decoded = Decoded.of(found, hashes_N=hashes_N, max_len_N=limits, vocab_size=70_000)
    write_block(folder, block, decoded, made_from=MADE_FROM, made_with=MADE_WITH)
    header, back = read(folder, block, hashes_N=hashes_N)
    assert content(back) == content(decoded)
    assert back.hypotheses() == [[tuple(tokens) for tokens, _ in nbest] for nbest, _, _ in sentences]
    assert back.scores_H.tolist() == [score for nbest, _, _ in sentences for _, score in nbest]
    assert back.at_limit_H.tolist() == [
        len(tokens) + closed >= limit for nbest, _, limit in sentences for tokens, _ in nbest
    ]
    assert header["made_with"] == MADE_WITH


@pytest.mark.parametrize(("vocab_size", "bytes_each"), [(100, 2), (65_499, 2), (65_500, 4), (250_000, 4)])
def test_ids_take_as_many_bytes_as_the_vocabulary_needs(tmp_path: Path, vocab_size: int, bytes_each: int) -> None:
    found = [[Hypothesis((vocab_size - 1, 4), -1.0)]]
    hashes_N = HASHES[:1]
    decoded = Decoded.of(found, hashes_N=hashes_N, max_len_N=[9], vocab_size=vocab_size)
    block = Block(0, 0, 1)
    write_block(tmp_path, block, decoded, made_from={}, made_with={})
    _, back = read(tmp_path, block, {}, hashes_N)
    assert back.tokens_T.dtype.itemsize == bytes_each
    assert back.hypotheses() == [[(vocab_size - 1, 4)]]


def test_same_content_gives_the_same_file(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(write(tmp_path / name))
        os.utime(files[-1], (1, 1))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [path.name for path in files[0].parent.iterdir()] == ["000003.gz"]


def test_a_block_of_a_pool_has_the_draws_and_its_own_format(tmp_path: Path) -> None:
    pool = [[dataclasses.replace(each, draws=place) for place, each in enumerate(nbest)] for nbest in NBEST]
    decoded = Decoded.of(pool, hashes_N=HASHES, max_len_N=[3, 3, 3], vocab_size=100, is_pool=True)
    write(tmp_path, decoded)
    header, back = read(tmp_path)
    assert header["format"] == 4
    assert content(back) == content(decoded) == content(DECODED) | {"draws_H": ("<i4", [0, 1, 0, 1])}
    for draws, problem in (
        ([0, 1, 0], "it has 3 numbers of draws where 4 belong"),
        ([0, 1, -1, 0], "a number of draws"),
    ):
        write(tmp_path, dataclasses.replace(decoded, draws_H=np.array(draws, dtype="<i4")))
        with pytest.raises(DamagedBlock, match=problem):
            read(tmp_path)


def test_other_blocks_keep_their_format(tmp_path: Path) -> None:
    write(tmp_path)
    header, back = read(tmp_path)
    assert header["format"] == 3
    assert back.draws_H is None
    rewrite(BLOCK.path(tmp_path), lambda header: header.update(format=4))
    with pytest.raises(DamagedBlock, match="its columns are not"):
        read(tmp_path)


def test_file_does_not_depend_on_order_of_settings(tmp_path: Path) -> None:
    data = write(tmp_path).read_bytes()
    turned = dict(reversed(MADE_FROM.items()))
    assert write_block(tmp_path, BLOCK, DECODED, made_from=turned, made_with=MADE_WITH).read_bytes() == data


# ----------------------------------------------------------------------------------------------------- damaged blocks


def test_flipped_bit_is_detected_or_harmless(tmp_path: Path) -> None:
    """Some flips are harmless: in gzip's fields for time and system, or in a back-reference to equal bytes."""
    path = write(tmp_path)
    data, whole = path.read_bytes(), content(DECODED)
    ignored = 0
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with suppress(DamagedBlock):
            assert content(read(tmp_path)[1]) == whole
            ignored += 1
    assert ignored < 0.05 * 8 * len(data)


def test_truncated_block_is_damaged(tmp_path: Path) -> None:
    """Every length is tried, from 0 bytes to one byte less than the whole file."""
    path = write(tmp_path)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(DamagedBlock, match=r"000003\.gz: damaged"):
            read(tmp_path)


@pytest.mark.parametrize("more", [b"x", b"\0\0x", gzip.compress(b"more", mtime=0)])
def test_block_with_trailing_bytes_is_damaged(tmp_path: Path, more: bytes) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes() + more)
    with pytest.raises(DamagedBlock, match=r"000003\.gz: damaged"):
        read(tmp_path)


def with_digest(data: bytes) -> bytes:
    return gzip.compress(data + hashlib.sha256(data).digest(), mtime=0)


@pytest.mark.parametrize(
    "data",
    [
        b"hello\nworld\n",  # not gzip
        gzip.compress(b"hello\nworld\n", mtime=0),
        gzip.compress(b"", mtime=0),
        gzip.compress(b"{}\n", mtime=0),
        with_digest(b""),
        with_digest(b"hello"),
        with_digest(b"hello\n"),
        with_digest(b"[]\n"),
        with_digest(b"\xff\xfe\n"),
        with_digest(b'{"format":2}\n'),
        with_digest(b'{"format":3}\n'),
    ],
    ids=range(11),
)
def test_file_that_is_not_a_block_is_damaged(tmp_path: Path, data: bytes) -> None:
    path = BLOCK.path(tmp_path)
    path.write_bytes(data)
    with pytest.raises(DamagedBlock, match=r"000003\.gz: (damaged|not)"):
        read(tmp_path)
    assert not fits(path, BLOCK, MADE_FROM, HASHES)


def rewrite(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the header of a block and write it with a correct checksum."""
    line, columns = gzip.decompress(path.read_bytes())[:-32].split(b"\n", 1)
    header = json.loads(line)
    edit(header)
    path.write_bytes(with_digest(json.dumps(header).encode() + b"\n" + columns))


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("counts_N", [2, -1, 3], "negative"),
        ("counts_N", [2, 0, 3], "it has 4 scores where 5 belong"),
        ("counts_N", [4, 0], "it has 2 numbers of hypotheses where 3 belong"),
        ("hashes_N", [1, 2], "it has 2 sources where 3 belong"),
        ("sizes_H", [3, 1, 0, -2], "negative"),
        ("sizes_H", [3, 1, 0, 7], "it has 6 tokens where 11 belong"),
        ("sizes_H", [3, 1, 2], "it has 3 sizes where 4 belong"),
        ("scores_H", [0.0, 0.0, float("nan"), 0.0], "a score is not a number"),
        ("at_limit_H", [0, 0, 0, 2], "neither 0 nor 1"),
        ("at_limit_H", [0, 0, 0], "it has 3 marks of the maximum length where 4 belong"),
        ("tokens_T", [5], "it has 1 tokens where 6 belong"),
    ],
)
def test_columns_of_inconsistent_sizes_are_refused(
    tmp_path: Path, column: str, values: list[Any], problem: str
) -> None:
    """The checksum is correct: it was computed from the columns as they were written."""
    changed = np.array(values, dtype=getattr(DECODED, column).dtype)
    write(tmp_path, dataclasses.replace(DECODED, **{column: changed}))
    with pytest.raises(DamagedBlock, match=rf"000003\.gz: damaged: .*{problem}"):
        read(tmp_path)


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    read_block(tmp_path, BLOCK, made_from=MADE_FROM, hashes_N=HASHES, vocab_size=10)
    with pytest.raises(DamagedBlock, match=r"000003\.gz: has the id 9, the dictionary 9 symbols"):
        read_block(tmp_path, BLOCK, made_from=MADE_FROM, hashes_N=HASHES, vocab_size=9)


@pytest.mark.parametrize(
    "edit",
    [
        lambda header: header.update(columns=None),
        lambda header: header.update(columns=[1, 2]),
        lambda header: header["columns"].pop(),
        lambda header: header["columns"].reverse(),
        lambda header: header["columns"][0].__setitem__(1, "O"),
        lambda header: header["columns"][5].__setitem__(1, "<f8"),
        lambda header: header["columns"][0].__setitem__(2, 10**12),
        lambda header: header["columns"][0].__setitem__(2, -1),
        lambda header: header["columns"][5].__setitem__(2, 1),
        lambda header: header.update(block="3"),
        lambda header: header.update(count=-3),
        lambda header: header.update(first=None),
        lambda header: header.update(made_from=[]),
        lambda header: header.update(made_with="torch"),
    ],
)
def test_invalid_header_is_refused(tmp_path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    rewrite(write(tmp_path), edit)
    with pytest.raises(DamagedBlock, match=r"000003\.gz: damaged: "):
        read(tmp_path)


def test_block_of_another_version_is_refused(tmp_path: Path) -> None:
    rewrite(write(tmp_path), lambda header: header.update(format=1))
    with pytest.raises(DamagedBlock, match=r"000003\.gz: not in the form that this version writes"):
        read(tmp_path)
    with pytest.raises(DamagedBlock, match="not in the form"):
        read_header(BLOCK.path(tmp_path))


def test_a_missing_block_is_named(tmp_path: Path) -> None:
    for reading in (lambda: read(tmp_path), lambda: read_header(BLOCK.path(tmp_path))):
        with pytest.raises(DamagedBlock, match=r"000003\.gz: the block is missing"):
            reading()


# ---------------------------------------------------------------------------------------------- blocks of other runs


def test_block_of_another_language_check_is_refused_with_advice(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ForeignBlock, match=r"language check .*; install or remove py3langid, so that it is as before"):
        read(tmp_path, made_from={**MADE_FROM, "language check": "py3langid"})


@pytest.mark.parametrize(
    ("made_from", "message"),
    [
        (MADE_FROM | {"teacher": "u" * 64}, rf"made with another teacher \({'t' * 60}, not {'u' * 60}\)$"),
        (MADE_FROM | {"distill.decode.beam": 6}, r"made with another distill\.decode\.beam \(5, not 6\)$"),
        (MADE_FROM | {"engine": "torch"}, r"made with another engine \(none, not torch\)$"),
        (
            {"teacher": "t" * 64, "engine": "torch"},
            r"made with another distill\.decode\.beam \(5, not none\), engine \(none, not torch\)$",
        ),
    ],
)
def test_block_of_another_run_is_refused_with_the_difference(
    tmp_path: Path, made_from: dict[str, Any], message: str
) -> None:
    path = write(tmp_path)
    with pytest.raises(ForeignBlock, match=rf"000003\.gz: {message}"):
        read(tmp_path, made_from=made_from)
    assert not fits(path, BLOCK, made_from, HASHES)


def test_block_made_with_other_libraries_or_threads_fits(tmp_path: Path) -> None:
    path = write(tmp_path)
    rewrite(path, lambda header: header.update(made_with={"torch": "3.0", "threads": 9}))
    assert content(read(tmp_path)[1]) == content(DECODED)
    assert fits(path, BLOCK, MADE_FROM, HASHES)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_changed_source_is_named_when_counts_agree(tmp_path: Path, position: int) -> None:
    path = write(tmp_path)
    others = HASHES.copy()
    others[position:] += np.uint64(1)
    with pytest.raises(
        ForeignBlock, match=rf"000003\.gz: the source of sentence {20 + position} is not the one of the training text"
    ):
        read(tmp_path, hashes_N=others)
    assert fits(path, BLOCK, MADE_FROM, HASHES)
    assert not fits(path, BLOCK, MADE_FROM, others)


@pytest.mark.parametrize("block", [Block(3, 18, 3), Block(3, 20, 2), Block(3, 20, 4)])
def test_a_block_of_other_sentences_is_refused(tmp_path: Path, block: Block) -> None:
    path = write(tmp_path)
    last = block.first + block.count - 1
    with pytest.raises(ForeignBlock, match=rf"000003\.gz: holds sentences 20 to 22, not {block.first} to {last}$"):
        read(tmp_path, block, hashes_N=HASHES[: block.count])
    assert not fits(path, block, MADE_FROM, HASHES[: block.count])


def test_block_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    other = Block(4, 23, 3)
    path.rename(other.path(tmp_path))
    with pytest.raises(ForeignBlock, match=r"000004\.gz: holds sentences 20 to 22, not 23 to 25"):
        read(tmp_path, other)


def test_only_the_block_itself_fits(tmp_path: Path) -> None:
    path = BLOCK.path(tmp_path)
    assert not fits(path, BLOCK, MADE_FROM, HASHES)
    write(tmp_path)
    assert fits(path, BLOCK, MADE_FROM, HASHES)
    assert not fits(path, BLOCK, MADE_FROM, HASHES[::-1].copy())


# ------------------------------------------------------------------------------------------------- errors while writing


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_full_disk_is_reported_and_keeps_the_earlier_block(tmp_path: Path) -> None:
    """Writing to `/dev/full` always fails with ENOSPC, as on a full disk."""
    earlier = write(tmp_path)
    data = earlier.read_bytes()
    (tmp_path / f"{PARTIAL}{earlier.name}").symlink_to("/dev/full")
    with pytest.raises(
        UserError, match=rf"{earlier}: the disk is full; earlier blocks are kept, run it again to go on"
    ):
        write(tmp_path)
    assert earlier.read_bytes() == data
    assert list(tmp_path.iterdir()) == [earlier]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_at_fsync_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", _failing(number))
    with pytest.raises(UserError, match="the disk is full"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_errors_are_not_reported_as_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def _failing(number: int) -> object:
    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    return fsync


def test_a_kill_while_writing_leaves_no_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise SystemExit  # as when the process is killed: kdmt does not catch it

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(SystemExit):
        write(tmp_path)
    assert not BLOCK.path(tmp_path).exists()
    assert [path.name for path in tmp_path.iterdir()] == [f"{PARTIAL}000003.gz"]
