"""Tests of the selection of sentences to translate, against a dictionary of all lines."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kdmt.distill.sources
from kdmt.corpus.indexed import IndexedWriter
from kdmt.distill.sources import SourceLines, Sources, SourceText, find_sources
from kdmt.types import EOS

Text = list[list[int]]  # ids of each line, without </s>
VOCAB = 70_000


def write(folder: Path, texts: Sequence[Text], vocab_sizes: Sequence[int] | None = None) -> SourceText:
    prefixes = [folder / f"text{number}" for number in range(len(texts))]
    for prefix, text, vocab_size in zip(prefixes, texts, vocab_sizes or [VOCAB] * len(texts), strict=True):
        with IndexedWriter(prefix, vocab_size) as writer:
            for line in text:
                writer.add(np.array([*line, EOS]))
    return SourceText(prefixes)


def find(text: SourceText, *, once: bool = True) -> Sources:
    with tempfile.TemporaryDirectory() as scratch:
        found = find_sources(text, once=once, workdir=Path(scratch))
        assert not list(Path(scratch).iterdir())
        return found


def first_lines(texts: Sequence[Text]) -> dict[tuple[int, ...], int]:
    """Return a dict of the different sentences, in order of first occurrence, to the first line of each."""
    first: dict[tuple[int, ...], int] = {}
    for line, sentence in enumerate(sentence for text in texts for sentence in text):
        first.setdefault(tuple(sentence), line)
    return first


sentences = st.lists(st.integers(4, 7), max_size=3)  # small ranges, so that many sentences occur twice
texts_of_lines = st.lists(st.lists(sentences, max_size=8), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)  # each example opens and closes 128 files
@given(texts_of_lines)
def test_repeated_sentences_are_found_once(tmp_path_factory: pytest.TempPathFactory, texts: list[Text]) -> None:
    text = write(tmp_path_factory.mktemp("texts"), texts)
    found, first = find(text), first_lines(texts)
    numbers = {sentence: number for number, sentence in enumerate(first)}
    lines = [tuple(sentence) for own in texts for sentence in own]
    assert len(text) == len(lines)
    assert len(found) == len(first)
    assert found.lines_U.tolist() == list(first.values())
    assert found.numbers_L.tolist() == [numbers[line] for line in lines]
    assert len(set(found.hashes_U.tolist())) == len(first)
    assert [tuple(ids[:-1].tolist()) for ids in text.sentences(found.lines_U)] == list(first)


@settings(max_examples=20, deadline=None)
@given(texts_of_lines)
def test_without_once_every_line_is_a_sentence(tmp_path_factory: pytest.TempPathFactory, texts: list[Text]) -> None:
    text = write(tmp_path_factory.mktemp("texts"), texts)
    every, once = find(text, once=False), find(text)
    assert every.lines_U.tolist() == every.numbers_L.tolist() == list(range(len(text)))
    assert every.hashes_U.tolist() == once.hashes_U[once.numbers_L].tolist()  # hashes of the same sentences


@given(texts_of_lines, st.data())
def test_any_ascending_lines_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, texts: list[Text], data: st.DataObject
) -> None:
    lines = [[*sentence, EOS] for own in texts for sentence in own]
    wanted = sorted(data.draw(st.sets(st.integers(0, len(lines) - 1)) if lines else st.just(set())))
    text = write(tmp_path_factory.mktemp("texts"), texts)
    found = text.sentences(np.array(wanted, dtype=np.int64))
    assert [ids.tolist() for ids in found] == [lines[line] for line in wanted]


def test_result_does_not_depend_on_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    texts = [[rng.integers(4, 9, rng.integers(0, 4)).tolist() for _ in range(size)] for size in (500, 0, 300)]
    text = write(tmp_path, texts)
    whole = find(text)
    for lines in (1, 7, 500):
        monkeypatch.setattr(kdmt.distill.sources, "_CHUNK_LINES", lines)
        again = find(text)
        for name in ("lines_U", "hashes_U", "numbers_L"):
            assert np.array_equal(getattr(again, name), getattr(whole, name))


def test_sentences_are_compared_by_content_across_id_types(tmp_path: Path) -> None:
    text = write(tmp_path, [[[5, 6], [7]], [[7], [5, 6], [8]]], vocab_sizes=[100, VOCAB])
    found = find(text)
    assert found.numbers_L.tolist() == [0, 1, 1, 0, 2]


def test_neighbouring_lines_are_kept_separate(tmp_path: Path) -> None:
    """This includes empty lines."""
    text = write(tmp_path, [[[5, 6], [5], [6], [], [5, 6, 5], []]])
    assert find(text).numbers_L.tolist() == [0, 1, 2, 3, 4, 3]


def test_appended_lines_do_not_change_earlier_numbers(tmp_path: Path) -> None:
    before = [[5], [6], [5], [7]]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    old, new = find(write(tmp_path / "a", [before])), find(write(tmp_path / "b", [[*before, [7], [8], [5]]]))
    assert new.numbers_L.tolist() == [*old.numbers_L.tolist(), 2, 3, 0]
    assert new.hashes_U[: len(old)].tolist() == old.hashes_U.tolist()


def test_no_lines(tmp_path: Path) -> None:
    text = write(tmp_path, [[], []])
    for once in (True, False):
        found = find(text, once=once)
        assert (len(found), len(found.numbers_L)) == (0, 0)
    assert text.sentences(np.zeros(0, dtype=np.int64)) == []


# ------------------------------------------------------------------------------------------------------ lines of text


def encode(lines: Sequence[str]) -> list[np.ndarray]:
    """Return one token per code point; lines are compared by their text, not by these ids."""
    return [np.array([*map(ord, line), EOS]) for line in lines]


def find_lines(text: SourceLines, *, once: bool = True) -> Sources:
    with tempfile.TemporaryDirectory() as scratch:
        return find_sources(text, once=once, workdir=Path(scratch))


@pytest.mark.parametrize("piece", [1, 2, 3, 100])
def test_lines_of_several_files_are_compared_by_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(kdmt.distill.sources, "_PIECE_LINES", piece)
    files = [["ba", "", "be\u2028 bi", "ba", "ξ"], [], ["bi ba", "be\u2028 bi", "", "ba "]]
    paths = [tmp_path / str(number) for number in range(len(files))]
    for path, lines in zip(paths, files, strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    text, every = SourceLines(paths, encode), [line for lines in files for line in lines]
    found = find_lines(text)
    first = {line: number for number, line in reversed([*enumerate(every)])}
    assert len(text) == len(every)
    assert found.lines_U.tolist() == sorted(first.values())
    assert [every[found.lines_U[number]] for number in found.numbers_L] == every
    for lines_N in (found.lines_U, np.arange(len(every)), np.array([4, 5]), np.array([], dtype=np.int64)):
        wanted = encode([every[line] for line in lines_N])
        assert [ids.tolist() for ids in text.sentences(lines_N)] == [ids.tolist() for ids in wanted]
    assert find_lines(text, once=False).numbers_L.tolist() == [*range(len(every))]
    by_hand = [found.hashes_U[found.numbers_L[line]] for line in (0, 3)]
    assert by_hand[0] == by_hand[1]
    assert len(set(found.hashes_U.tolist())) == len(found)


def test_empty_file_has_no_sentences(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    text = SourceLines([tmp_path / "empty"], encode)
    assert len(text) == len(find_lines(text)) == 0
    assert text.sentences(np.array([], dtype=np.int64)) == []
