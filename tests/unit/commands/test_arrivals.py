"""Tests of lines that arrive on a stream, for any division of its bytes into reads."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.commands import arrivals
from kdmt.commands.arrivals import arriving_lines, arriving_words
from kdmt.errors import UserError


@contextmanager
def pipe(pieces: Sequence[bytes], pause: float = 0.0) -> Iterator[BinaryIO]:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as file:
            for piece in pieces:
                file.write(piece)
                time.sleep(pause)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as stream:
        yield stream
    thread.join()


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"\n\n", b"bc\nd", b"\r\n", b"\xff"])), st.integers(1, 4))
def test_lines_do_not_depend_on_the_division_into_reads(pieces: list[bytes], most: int) -> None:
    whole = b"".join(pieces)
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()
    with pipe(pieces) as stream:
        groups = list(arriving_lines(stream, most))
    assert [line for group in groups for line in group] == expected
    assert all(1 <= len(group) <= most for group in groups)
    in_memory = list(arriving_lines(io.BytesIO(whole), most))
    assert [line for group in in_memory for line in group] == expected


@pytest.mark.parametrize("kind", ["pipe", "file", "memory"])
def test_available_lines_are_grouped_up_to_the_limit(kind: str, tmp_path: Path) -> None:
    """Check that lines that are already available are returned together, for any size of a read."""
    data = b"a line of some words\n" * 20_000
    (tmp_path / "file").write_bytes(data)
    streams = {"pipe": pipe([data]), "file": (tmp_path / "file").open("rb"), "memory": io.BytesIO(data)}
    with streams[kind] as stream:
        sizes = [len(group) for group in arriving_lines(stream, 1024)]
    assert sum(sizes) == 20_000
    if kind != "pipe":  # the writer of a pipe may have to wait for a core
        assert sizes == [1024] * 19 + [20_000 % 1024]
    assert len(sizes) < 100


def test_lines_that_arrive_one_by_one_are_collected_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(arrivals, "_GATHER_SECONDS", 0.1)
    with pipe([b"x\n"] * 100, pause=0.005) as stream:
        sizes = [len(group) for group in arriving_lines(stream, 1024)]
    assert sum(sizes) == 100
    assert 1 < len(sizes) < 100


def test_a_line_that_does_not_end_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MAX_LINE_BYTES", 1000)
    with pipe([b"a\n", b"x" * 10_000_000, b"\nb\n", b"y" * 1001]) as stream:
        lines = [line for group in arriving_lines(stream, 8) for line in group]
    assert [len(line) for line in lines[::2]] == [1, 1]
    assert all(1000 < len(line) < 200_000 for line in lines[1::2])
    assert [line[:1] for line in lines] == [b"a", b"x", b"b", b"y"]


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b" ", b"bc d", b"\n\n", b"e \r\n", b"\xff", b"\t f"])))
def test_words_do_not_depend_on_the_division_into_reads(pieces: list[bytes]) -> None:
    """As `split` divides the lines; the end of the stream ends a line that has a word."""
    with pipe(pieces) as stream:
        found = list(arriving_words(stream))
    lines = b"".join(pieces).split(b"\n")
    expected = [item for line in lines[:-1] for item in (*line.split(), None)]
    assert found == expected + ([*lines[-1].split(), None] if lines[-1].split() else [])


def test_a_word_arrives_with_the_space_after_it() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as file:
        words = arriving_words(stream)
        file.write(b"a b c")
        assert [next(words), next(words)] == [b"a", b"b"]
        file.write(b"d\n")
        assert [next(words), next(words)] == [b"cd", None]


def test_an_endless_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MAX_LINE_BYTES", 10)
    with pytest.raises(UserError, match="a word is longer than 10 bytes"):
        list(arriving_words(io.BytesIO(b"x" * 11)))
    assert list(arriving_words(io.BytesIO(b"x " * 20))) == [b"x"] * 20 + [None]
