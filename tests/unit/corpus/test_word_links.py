"""Files of links: parsing, batches by a plain count, and links of words as links of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdmt.corpus.word_links import (
    LinkFile,
    LinkSource,
    LinksWriter,
    format_links,
    links_of_tokens,
    parse_links,
    words_of_tokens,
)
from kdmt.errors import UserError


def write(path: Path, lines: list[str]) -> LinkFile:
    with LinksWriter(path) as writer:
        for line in lines:
            writer.add(parse_links(line.encode(), "test"))
    return LinkFile(path)


def test_links_are_written_in_the_order_of_the_target(tmp_path: Path) -> None:
    found = write(tmp_path / "links", ["2-0 0-1 1-0", "", "10-3"])
    assert (tmp_path / "links").read_text() == "1-0 2-0 0-1\n\n10-3\n"
    assert [found.line(index) for index in range(len(found))] == [b"1-0 2-0 0-1\n", b"\n", b"10-3\n"]
    assert format_links(np.zeros((0, 2), dtype=np.int64)) == ""


@pytest.mark.parametrize("wrong", ["0", "0-", "a-1", "0-1-2", "-1-0", "0:1", "1.0-2"])
def test_part_that_is_no_link_is_named(wrong: str) -> None:
    with pytest.raises(UserError, match=f"^file:3: {wrong!r} is no link"):
        parse_links(f"0-0 {wrong} 1-1".encode(), "file:3")


def test_batch_of_several_files_has_the_weights_of_its_links(tmp_path: Path) -> None:
    source = LinkSource([write(tmp_path / "a", ["0-0 1-0 2-1", ""]), write(tmp_path / "b", ["3-2"])])
    assert len(source) == 3
    found = source.load([2, 1, 0], None)
    assert found.place_3L.tolist() == [[0, 2, 2, 2], [2, 0, 0, 1], [3, 0, 1, 2]]
    assert found.weight_L.tolist() == [1.0, 0.5, 0.5, 1.0]
    assert found.num_tokens == 3
    weighted = source.load([2, 1, 0], np.array([0.25, 9.0, 0.5], dtype=np.float32))
    assert weighted.weight_L.tolist() == [0.25, 0.25, 0.25, 0.5]
    assert weighted.num_tokens == 0.25 + 0.5 + 0.5
    nothing = source.load([1], None)
    assert (nothing.place_3L.shape, nothing.weight_L.shape, nothing.num_tokens) == ((3, 0), (0,), 0)


def test_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "links", ["0-0", "1-1"])
    (tmp_path / "links").write_text("0-0\n")
    with pytest.raises(UserError, match="4 bytes, its offsets count 8"):
        LinkFile(tmp_path / "links")


def test_words_are_found_by_the_marks_of_subwords() -> None:
    assert words_of_tokens(["▁the", "▁un", "likely", "▁", "x", "."]).tolist() == [0, 1, 1, 2, 2, 2]
    assert words_of_tokens(["the", "un@@", "like@@", "ly", "one"]).tolist() == [0, 1, 1, 1, 2]
    assert words_of_tokens(["x", "▁a"]).tolist() == [0, 1]
    assert words_of_tokens(["▁the", "thing", "▁a"]).tolist() == [0, 0, 1]
    assert words_of_tokens([]).tolist() == []


def test_tag_before_the_words_is_none_of_them() -> None:
    assert words_of_tokens(["<bt>", "▁un", "likely", "▁x"], ["<a>", "<bt>"]).tolist() == [-1, 0, 0, 1]
    assert words_of_tokens(["<bt>", "the", "un@@", "like"], ["<bt>"]).tolist() == [-1, 0, 1, 1]
    assert words_of_tokens(["<en>", "<2de>", "▁un", "likely"], ["<2de>", "<en>"]).tolist() == [-1, -1, 0, 0]
    assert words_of_tokens(["▁the", "▁x"], ["<bt>"]).tolist() == [0, 1]
    tagged = words_of_tokens(["<bt>"], ["<bt>"])
    assert tagged.tolist() == [-1]
    with pytest.raises(IndexError, match="the source has no word 0, only 0 words"):
        links_of_tokens(np.array([[0, 0]]), tagged, np.array([0]))


def test_links_of_words_are_links_of_all_their_tokens() -> None:
    src, tgt = np.array([0, 0, 1]), np.array([0, 1, 1, 2])
    found = links_of_tokens(np.array([[0, 1], [1, 2]]), src, tgt)
    assert {tuple(link) for link in found.tolist()} == {(0, 1), (0, 2), (1, 1), (1, 2), (2, 3)}
    with pytest.raises(IndexError, match="the target has no word 3, only 3 words"):
        links_of_tokens(np.array([[0, 3]]), src, tgt)
    with pytest.raises(IndexError, match="the source has no word 0, only 0 words"):
        links_of_tokens(np.array([[0, 0]]), np.zeros(0, dtype=np.int64), tgt)
