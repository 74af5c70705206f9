"""Tests of reading sentences and pairs of corpora from local files."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from kdmt.config import Corpus, Source
from kdmt.corpus.fetch import fetch_corpus
from kdmt.corpus.reading import read_pairs
from kdmt.corpus.text_files import open_lines
from kdmt.errors import UserError
from kdmt.languages import Direction

DIRECTION = Direction("en", "de")

# ------------------------------------------------------------------------------------------------------------- lines


def write_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


TEXT = "a\u2028b\x0bc\x85d\x1ce\rf\r\n\nlast \u00e9"
LINES = ["a\u2028b\x0bc\x85d\x1ce\rf", "", "last \u00e9"]


def test_lines_end_only_at_newlines(tmp_path: Path) -> None:
    plain, gzipped = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_bytes(TEXT.encode())
    gzipped.write_bytes(gzip.compress(TEXT.encode()))
    archive = write_zip(tmp_path / "a.zip", text=TEXT.encode(), **{"inner.gz": gzipped.read_bytes()})
    assert list(open_lines(plain)) == LINES
    assert list(open_lines(gzipped)) == LINES
    assert list(open_lines(archive, member="text")) == LINES
    assert list(open_lines(archive, member="inner.gz")) == LINES
    plain.write_bytes(TEXT.encode() + b"\n")
    assert list(open_lines(plain)) == LINES


def test_a_byte_order_mark_is_removed_only_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\n\ufefftwo\n".encode())
    assert list(open_lines(path)) == ["one", "\ufefftwo"]


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("grün\ngr".encode() + b"\xfcn\n")
    with pytest.raises(UserError, match=r"a\.txt line 2: not UTF-8"):
        list(open_lines(path))
    with pytest.raises(UserError, match="the corpus line 2: not UTF-8"):
        list(open_lines(path, name="the corpus"))


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    long_text = "\n".join(str(hash((1, n))) for n in range(20_000)).encode()
    gzipped = tmp_path / "a.gz"
    gzipped.write_bytes(gzip.compress(long_text)[:-5000])
    with pytest.raises(UserError, match=r"a\.gz: truncated or damaged after line \d+"):
        list(open_lines(gzipped))
    gzipped.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"a\.gz: truncated or damaged after line 0"):
        list(open_lines(gzipped))
    archive = write_zip(tmp_path / "a.zip", text=long_text)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1000])
    with pytest.raises(UserError, match=r"a\.zip:text: truncated or damaged"):
        list(open_lines(archive, member="text"))
    archive.write_bytes(whole[:5000] + b"\0" * 100 + whole[5100:])
    with pytest.raises(UserError, match=r"a\.zip:text: truncated or damaged"):
        list(open_lines(archive, member="text"))


def test_missing_files_and_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing: No such file"):
        list(open_lines(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"a\.zip:deu\.txt: no such member; the archive holds text, about"):
        list(open_lines(write_zip(tmp_path / "a.zip", text=b"", about=b""), member="deu.txt"))


# ------------------------------------------------------------------------------------------------------------- pairs


def two_files(tmp_path: Path, source: str, target: str) -> Corpus:
    (tmp_path / "c.en").write_text(source, encoding="utf-8")
    (tmp_path / "c.de").write_text(target, encoding="utf-8")
    return Corpus(source=Source(path="c.en"), target=Source(path="c.de"))


def pairs_of(corpus: Corpus, base: Path) -> list[tuple[str, str]]:
    return list(read_pairs(corpus, fetch_corpus(corpus, downloads=base, mirror=None, base=base), DIRECTION))


def test_pairs_of_two_files(tmp_path: Path) -> None:
    corpus = two_files(tmp_path, "a\n\nc\n", "x\ny\nz")
    assert pairs_of(corpus, tmp_path) == [("a", "x"), ("", "y"), ("c", "z")]


@pytest.mark.parametrize(
    ("source", "target", "counts"),
    [("a\nb\nc\n", "x\n", (3, 1)), ("a\n", "x\ny\n", (1, 2)), ("", "x\ny\n", (0, 2)), ("a\n", "", (1, 0))],
)
def test_two_files_of_different_length_are_refused(
    tmp_path: Path, source: str, target: str, counts: tuple[int, int]
) -> None:
    corpus = two_files(tmp_path, source, target)
    with pytest.raises(UserError, match=rf"c\.en has {counts[0]} lines, c\.de has {counts[1]}"):
        pairs_of(corpus, tmp_path)


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"c\.en and c\.de: the corpus is empty"):
        pairs_of(two_files(tmp_path, "", ""), tmp_path)
    corpus = Corpus(tsv=Source(path="c.en"))
    with pytest.raises(UserError, match=r"c\.en: the corpus is empty"):
        pairs_of(corpus, tmp_path)


def test_pairs_of_a_tsv_file_inside_a_zip_archive(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", text="1\tein\u2028s\tone\n2\tzwei\ttwo\n".encode())
    tsv = Source(path="a.zip", member="text")
    assert pairs_of(Corpus(tsv=tsv, source_column=2, target_column=1), tmp_path) == [
        ("one", "ein\u2028s"),
        ("two", "zwei"),
    ]
    with pytest.raises(UserError, match=r"a\.zip:text line 1: 3 columns, at least 4 expected"):
        pairs_of(Corpus(tsv=tsv, source_column=0, target_column=3), tmp_path)
