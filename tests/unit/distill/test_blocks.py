"""Block files: what was written comes back, and nothing else does."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.distill.blocks import Block, Decoded, is_complete, plan_blocks, read_block, write_block
from kdmt.errors import UserError

KEY = "k" * 64
BLOCK = Block(number=3, first=20, count=2)
SENTENCES = [
    Decoded(index=20, source_sha="ab" * 8, tokens=((5, 6, 7), (5,)), scores=(-0.25, -1.5), at_limit=(True, False)),
    Decoded(index=21, source_sha="cd" * 8, tokens=(), scores=(), at_limit=()),
]


def read(folder: Path, block: Block = BLOCK, key: str = KEY) -> list[Decoded]:
    return list(read_block(folder, block, key))


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


hypotheses = st.lists(st.tuples(st.lists(st.integers(0, 70_000)), st.floats(-1e6, 0)), max_size=3)


@given(st.lists(st.tuples(hypotheses, st.booleans()), min_size=1, max_size=4))
def test_what_was_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, content: list[tuple[list[tuple[list[int], float]], bool]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    sentences = [
        Decoded(
            7 + i,
            f"{i:016x}",
            tuple(tuple(tokens) for tokens, _ in nbest),
            tuple(s for _, s in nbest),
            (hit,) * len(nbest),
        )
        for i, (nbest, hit) in enumerate(content)
    ]
    block = Block(0, 7, len(sentences))
    write_block(folder, block, KEY, sentences)
    assert read(folder, block) == sentences


def test_the_same_content_is_the_same_file(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(write_block(tmp_path / name, BLOCK, KEY, SENTENCES))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [path.name for path in files[0].parent.iterdir()] == ["000003.jsonl.gz"]


# --------------------------------------------------------------------------------------------- what is no whole block


def test_no_flipped_bit_passes(tmp_path: Path) -> None:
    """Flips that gzip itself ignores (flags, time and system, bits behind the end) leave the content as it is."""
    path = write_block(tmp_path, BLOCK, KEY, SENTENCES)
    data = path.read_bytes()
    ignored = []
    for position in range(0, 8 * len(data), 3):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            assert read(tmp_path) == SENTENCES
            ignored.append(position // 8)
        except UserError:
            pass
    assert set(ignored) <= {*range(3, 10), len(data) - 9}


def test_no_block_cut_short_passes(tmp_path: Path) -> None:
    path = write_block(tmp_path, BLOCK, KEY, SENTENCES)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"000003\.jsonl\.gz: (damaged|cut short)"):
            read(tmp_path)


@pytest.mark.parametrize(
    "lines",
    [
        [b"hello\n", b"world\n"],
        [b"[]\n", b"[]\n", b"[]\n", b"[]\n"],
        [b"{}\n"],
        [],
        [b"\xff\xfe\n", b'{"sha256":"x"}\n'],
    ],
)
def test_a_whole_file_of_something_else_is_damaged(tmp_path: Path, lines: list[bytes]) -> None:
    BLOCK.path(tmp_path).write_bytes(gzip.compress(b"".join(lines)))
    with pytest.raises(UserError, match=r"000003\.jsonl\.gz: (damaged|cut short)"):
        read(tmp_path)


def test_lines_that_were_taken_out_or_exchanged_are_noticed(tmp_path: Path) -> None:
    path = write_block(tmp_path, BLOCK, KEY, SENTENCES)
    header, first, second, footer = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    for lines in ([header, first, footer], [header, second, first, footer], [header, first, second, second, footer]):
        path.write_bytes(gzip.compress(b"".join(lines)))
        with pytest.raises(UserError, match="its checksum does not match"):
            read(tmp_path)


def test_a_block_of_another_run_is_refused(tmp_path: Path) -> None:
    write_block(tmp_path, BLOCK, KEY, SENTENCES)
    with pytest.raises(UserError, match="made with another teacher, vocabulary, data or settings"):
        read(tmp_path, key="x" * 64)
    with pytest.raises(UserError, match="made with another"):
        read(tmp_path, block=Block(3, 18, 2))


def test_a_sentence_in_anothers_place_is_refused(tmp_path: Path) -> None:
    path = write_block(tmp_path, BLOCK, KEY, SENTENCES[::-1])
    with pytest.raises(UserError, match=rf"{path}: sentence 21 stands where 20 should"):
        read(tmp_path)
    write_block(tmp_path, BLOCK, KEY, SENTENCES[:1])
    with pytest.raises(UserError, match="holds 1 sentences, not 2"):
        read(tmp_path)


def test_a_missing_block_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"000003\.jsonl\.gz: the block is missing"):
        read(tmp_path)


def test_only_a_whole_block_of_this_run_is_complete(tmp_path: Path) -> None:
    path = BLOCK.path(tmp_path)
    assert not is_complete(tmp_path, BLOCK, KEY)
    write_block(tmp_path, BLOCK, KEY, SENTENCES)
    assert is_complete(tmp_path, BLOCK, KEY)
    assert not is_complete(tmp_path, BLOCK, "x" * 64)
    assert not path.exists()  # removed, to be decoded again
    path.write_bytes(b"something")
    assert not is_complete(tmp_path, BLOCK, KEY)
    assert not path.exists()


# ---------------------------------------------------------------------------------------------- writing that goes wrong


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_told_and_leaves_an_earlier_block(tmp_path: Path) -> None:
    """`/dev/full` answers every write as a full disk does."""
    earlier = write_block(tmp_path, BLOCK, KEY, SENTENCES)
    data = earlier.read_bytes()
    (tmp_path / f".partial-{earlier.name}").symlink_to("/dev/full")
    with pytest.raises(
        UserError, match=rf"{earlier}: the disk is full; earlier blocks are kept, run it again to go on"
    ):
        write_block(tmp_path, BLOCK, KEY, SENTENCES[::-1])
    assert earlier.read_bytes() == data
    assert list(tmp_path.iterdir()) == [earlier]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_at_the_last_moment_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", _failing(number))
    with pytest.raises(UserError, match="the disk is full"):
        write_block(tmp_path, BLOCK, KEY, SENTENCES)
    assert not list(tmp_path.iterdir())


def test_another_error_is_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_block(tmp_path, BLOCK, KEY, SENTENCES)
    assert not list(tmp_path.iterdir())


def _failing(number: int) -> object:
    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    return fsync


def test_a_kill_while_writing_leaves_no_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise SystemExit  # what a kill leaves: no handler of ours catches it

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(SystemExit):
        write_block(tmp_path, BLOCK, KEY, SENTENCES)
    assert not is_complete(tmp_path, BLOCK, KEY)
    assert [path.name for path in tmp_path.iterdir()] == [".partial-000003.jsonl.gz"]
