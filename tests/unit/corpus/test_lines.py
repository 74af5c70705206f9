"""Tests of cutting files into pieces of lines, compared with splitting their text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kdmt.corpus.lines
from kdmt.corpus.lines import Piece, cut_lines, iterate_lines, spread_lines
from kdmt.errors import UserError


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text: only `\n` ends a line, and there is no line after the last `\n`."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def write(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"lines{number}" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    return paths


texts = st.text(st.sampled_from("ab \n\n\r\t\u2028\x85é😀"), max_size=40)


@given(texts, st.integers(1, 9), st.sampled_from([1, 2, 3, 1 << 20]))
def test_pieces_together_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, num_lines: int, read_bytes: int
) -> None:
    (path,) = write(tmp_path_factory.getbasetemp(), text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kdmt.corpus.lines, "_READ_BYTES", read_bytes)
        pieces = [piece for (piece,) in cut_lines([path], num_lines)]
    lines = lines_of(text)
    assert [piece.read() for piece in pieces] == [
        lines[start : start + num_lines] for start in range(0, len(lines), num_lines)
    ]
    assert [piece.count for piece in pieces] == [len(piece.read()) for piece in pieces]
    assert sum(piece.size for piece in pieces) == len(text.encode())
    assert list(iterate_lines(path)) == lines


@given(st.lists(st.tuples(texts, texts), max_size=9), st.integers(1, 4), st.booleans(), st.booleans())
def test_pieces_of_parallel_files_have_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], num_lines: int, end_a: bool, end_b: bool
) -> None:
    """Read files whose last lines may or may not end in a newline."""
    sides = [[text.replace("\n", "") for text in side] for side in zip(*pairs, strict=True)] or [[], []]
    contents = []
    for lines, ends in zip(sides, (end_a, end_b), strict=True):
        ended = "".join(f"{line}\n" for line in lines)
        contents.append(ended if ends or not lines or not lines[-1] else ended[:-1])
    paths = write(tmp_path_factory.getbasetemp(), *contents)
    read: list[list[str]] = [[], []]
    for pieces in cut_lines(paths, num_lines):
        assert [piece.path for piece in pieces] == paths
        assert len({piece.count for piece in pieces}) == 1
        for side, piece in zip(read, pieces, strict=True):
            side += piece.read()
    assert read == sides


@pytest.mark.parametrize(
    ("first", "second"), [("a\nb\nc\n", "a\nb\n"), ("a\nb\n", "a\nb\nc\nd\ne"), ("", "a"), ("\n", "")]
)
def test_files_of_different_length_are_refused(tmp_path: Path, first: str, second: str) -> None:
    for num_lines in (1, 2, 10):
        paths = write(tmp_path, first, second)
        with pytest.raises(UserError, match=rf"{paths[0]}, {paths[1]}: files of different length"):
            list(cut_lines(paths, num_lines))


def test_a_file_that_changed_while_reading_is_refused(tmp_path: Path) -> None:
    (path,) = write(tmp_path, "a\nb\nc\nd\n")
    pieces = [piece for (piece,) in cut_lines([path], 3)]
    path.write_bytes(b"a\nbbc\nd\n")
    with pytest.raises(UserError, match="2 lines where 3 were: was it changed while it was read"):
        pieces[0].read()
    path.write_bytes(b"a\n")
    with pytest.raises(UserError, match="0 lines where 1 were"):
        pieces[1].read()


def test_a_piece_has_its_offset_and_size(tmp_path: Path) -> None:
    (path,) = write(tmp_path, "é\nab\n\nc")
    assert [piece for (piece,) in cut_lines([path], 2)] == [Piece(path, 0, 6, 2), Piece(path, 6, 2, 2)]


@given(st.lists(st.text("ab é😀", max_size=12), max_size=60), st.integers(1, 70), st.sampled_from([0, 1 << 20]))
def test_spread_lines_are_lines_of_the_file_in_order(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], limit: int, read_bytes: int
) -> None:
    lines = [f"{number} {word}" for number, word in enumerate(words)]  # all lines are different
    (path,) = write(tmp_path_factory.getbasetemp(), "".join(f"{line}\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kdmt.corpus.lines, "_READ_BYTES", read_bytes)
        found = spread_lines(path, limit)
    assert len(found) <= limit
    numbers = [lines.index(line) for line in found]
    assert numbers == sorted(set(numbers))
    if read_bytes:  # the file is read completely
        assert len(found) == min(limit, len(lines))


def test_lines_are_spread_over_all_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdmt.corpus.lines, "_READ_BYTES", 0)
    (path,) = write(tmp_path, "".join(f"{number:04}\n" for number in range(1000)))
    assert spread_lines(path, 10) == [f"{number:04}" for number in range(0, 1000, 100)]
    assert spread_lines(path, 1000) == [f"{number:04}" for number in range(1000)]
