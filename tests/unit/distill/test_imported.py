"""Tests of translations of another system, imported from a file as a training set."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from bad_input import refused, unharmed
from corpus_formats import COMPRESS
from distilled_pipeline import (
    IMPORTED,
    IMPORTING,
    MADE,
    PREPARED,
    TINY,
    done,
    manifest,
    rejected,
    theirs,
)
from tiny_pipeline import (
    kdmt,
    read_lines,
    settings,
    to_yaml,
    write_lines,
)

from kdmt.config import Failures, Text
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.text import TextProcessor
from kdmt.distill.imported import write_imported
from kdmt.languages import Direction

RAW = "students.raw.data=imported"


@pytest.mark.usefixtures("finished")
def test_another_systems_translations_become_a_training_set() -> None:
    write_lines(Path("theirs.tsv"), [*theirs()[:-1], "79\t "])
    done(*IMPORTING)
    expected = [line.partition("\t")[2].replace("  ", " ") for line in theirs()[:-1]]
    assert read_lines(IMPORTED / "distilled.de") == [*expected, read_lines(PREPARED / "train.de")[-1]]
    assert read_lines(IMPORTED / "distilled.en") == read_lines(PREPARED / "train.en")
    kept = [(index, "unk", "kept") for index in range(79)]  # the vocabulary has no digits
    assert rejected(IMPORTED) == [*kept, (79, "empty", "replaced by the reference")]
    assert manifest(IMPORTED)["inputs"]["theirs.tsv"]
    codec = TextCodec.load(PREPARED)
    sentences = IndexedDataset(IMPORTED / "data-bin/train.en-de.de")
    assert len(sentences) == 80
    assert sentences[0].tolist() == codec.encode_target([expected[0]])[0].tolist()
    assert kdmt("student", "tiny.yaml", "--student", "raw", "--set", RAW, "--set", IMPORTING[1]).code == 0
    assert "imported/data-bin/train.en-de.de.bin" in manifest(TINY / "students/raw/seed_1")["inputs"]


@pytest.mark.usefixtures("finished")
def test_loops_and_unknown_characters_in_translations_are_failures() -> None:
    lines = [f"{index}\tok uk ilp" for index in range(80)]
    lines[3], lines[5] = f"3\t{' '.join(['ok uk'] * 5)}", "5\tok Я ilp"
    write_lines(Path("theirs.tsv"), lines)
    sets = (*IMPORTING, "distill.failures={ratio: keep, unk: drop}")
    done(*sets)
    assert rejected(IMPORTED) == [(3, "repetition", "replaced by the reference"), (5, "unk", "dropped")]
    assert read_lines(IMPORTED / "distilled.de")[3] == read_lines(PREPARED / "train.de")[3]
    record = manifest(IMPORTED)
    del record["settings"]["failures of other systems"]  # as in earlier versions, which did not look for them
    (IMPORTED / "manifest.json").write_text(json.dumps(record), encoding="utf-8")
    assert "an earlier version did not look for them" in done(*sets)


@pytest.mark.usefixtures("finished")
def test_order_of_imported_lines_does_not_matter() -> None:
    lines = theirs()
    write_lines(Path("theirs.tsv"), lines)
    done(*IMPORTING)
    names = (
        "distilled.en",
        "distilled.de",
        "nbest",
        "nbest.npy",
        "sentences.npy",
        "rejected",
        "data-bin/train.en-de.de.bin",
    )
    in_order = [(IMPORTED / name).read_bytes() for name in names]
    random.Random(5).shuffle(lines)
    write_lines(Path("theirs.tsv"), lines)
    assert "imported: rebuilt: the input theirs.tsv changed" in done(*IMPORTING)
    assert [(IMPORTED / name).read_bytes() for name in names] == in_order
    assert not list(TINY.glob(".imported-*"))


@pytest.mark.usefixtures("finished")
def test_teacher_is_not_needed_if_all_training_sets_are_imported() -> None:
    document = settings()
    document["students"] = {"theirs": {**document["students"]["raw"], "data": "imported"}}
    document["distill"]["imported"] = "theirs.tsv"
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    write_lines(Path("theirs.tsv"), theirs())
    for name in ("teacher", "distill"):
        shutil.rmtree(TINY / name)
    assert done().startswith("imported: starting\n")
    assert not MADE.exists()


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*theirs(79)], ": no line has the index 79 of 80"),
        (theirs()[:3], ": no line has the index 3, 4, 5, 6, 7 and 72 more of 80"),
        ([*theirs(), "17\tok"], ":81: index 17 is already in line 18"),
        ([*theirs(79), "80\tok"], ":80: index 80, but the training source has the lines 0 to 79"),
        ([*theirs(79), f"{'9' * 5000}\tok"], f":80: index {'9' * 40}"),
        ([*theirs(79), "ok uk"], ":80: expected index<TAB>translation, found 'ok uk'"),
        ([*theirs(79), "-1\tok"], ":80: expected index<TAB>translation, found '-1\\tok'"),
        ([*theirs(79), "٧\tok"], ":80: expected index<TAB>translation, found '٧\\tok'"),
        ([*theirs(79), ""], ":80: expected index<TAB>translation, found ''"),
        ([], ": no line has the index 0, 1, 2, 3, 4 and 75 more of 80"),
    ],
)
def test_invalid_file_is_refused(lines: list[str], message: str) -> None:
    """The existing imported training set is not changed."""
    write_lines(Path("theirs.tsv"), theirs())
    done(*IMPORTING)
    write_lines(Path("theirs.tsv"), lines)
    with unharmed():
        assert refused("distill", "tiny.yaml", sets=IMPORTING).startswith(f"theirs.tsv{message}")
    assert not list(TINY.glob(".imported-*"))


@pytest.mark.usefixtures("finished")
def test_unreadable_file_is_refused() -> None:
    with unharmed("tiny/.imported.lock"):
        assert refused("distill", "tiny.yaml", sets=IMPORTING) == "theirs.tsv: there is no such file"
        Path("theirs.tsv").write_bytes(b"0\tok\n1\t\xff\n")
        assert refused("distill", "tiny.yaml", sets=IMPORTING) == "theirs.tsv line 2: not UTF-8"
        assert not IMPORTED.exists()


WITH_SOURCES = (*IMPORTING, "distill.imported_sources=true")


def with_sources(lines: list[str]) -> list[str]:
    """Return the lines of `theirs` with a column for the source."""
    sources = read_lines(PREPARED / "train.en")
    return [line.replace("\t", f"\t{sources[index]}\t", 1) for index, line in enumerate(lines)]


@pytest.mark.usefixtures("finished")
def test_source_column_does_not_change_the_result() -> None:
    write_lines(Path("theirs.tsv"), theirs())
    done(*IMPORTING)
    without = [(IMPORTED / name).read_bytes() for name in ("distilled.en", "distilled.de", "nbest")]
    lines = with_sources(theirs())
    lines[3] = lines[3].replace("\t", "\t  ", 1)  # differences in spaces are ignored
    random.Random(5).shuffle(lines)
    write_lines(Path("theirs.tsv"), lines)
    done(*WITH_SOURCES)
    assert [(IMPORTED / name).read_bytes() for name in ("distilled.en", "distilled.de", "nbest")] == without
    assert manifest(IMPORTED)["settings"]["distill.imported_sources"] is True


@pytest.mark.usefixtures("finished")
def test_translations_of_other_sources_are_refused() -> None:
    """The file has all indices, but its sources are shifted by one from some line on."""
    sources, lines = read_lines(PREPARED / "train.en"), with_sources(theirs())
    write_lines(Path("theirs.tsv"), lines)
    done(*WITH_SOURCES)
    shifted = [f"{index}\t{lines[(index + (index > 40)) % 80].partition(chr(9))[2]}" for index in range(80)]
    for wrong, message in (
        (shifted, f":42: not the source of line 41 of the training set: {sources[42]!r}, not {sources[41]!r}"),
        (theirs(), ":1: expected index<TAB>source<TAB>translation, found two columns"),
    ):
        write_lines(Path("theirs.tsv"), wrong)
        with unharmed():
            assert refused("distill", "tiny.yaml", sets=WITH_SOURCES) == f"theirs.tsv{message}"
    message = refused("distill", "tiny.yaml", sets=("distill.imported_sources=true",))
    assert message.endswith("'imported_sources' has no effect unless 'imported' is set")


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("compression", ["xz", "zstd"])
def test_translations_may_be_compressed(compression: str) -> None:
    lines = theirs()
    Path("theirs.tsv").write_bytes(COMPRESS[compression]("".join(f"{line}\n" for line in lines).encode()))
    done(*IMPORTING)
    expected = [line.partition("\t")[2].replace("  ", " ") for line in lines]
    assert read_lines(IMPORTED / "distilled.de") == expected


class _TextAlone(TextCodec):
    """Text processing without a vocabulary."""

    def encode_target(self, words: Sequence[str]) -> list[np.ndarray]:
        return [np.zeros(0, dtype=np.int64) for _ in words]


def test_text_is_processed_by_the_language_of_the_direction_of_its_line(tmp_path: Path) -> None:
    directions = (Direction("en", "fr"), Direction("fr", "en"))
    text = TextProcessor(Text(moses=True), "src", "tgt", None, directions=directions)
    codec = _TextAlone(text, *cast("tuple[Any, Any, Any]", (None, None, None)))
    write_lines(tmp_path / "tags", ["fr-en", "en-fr"])
    write_lines(tmp_path / "src", ["l' eau", "it 's"])
    write_lines(tmp_path / "theirs", ["1\tit's\tl'eau", "0\tl'eau\tit's"])
    nbest, offsets, sentences = (tmp_path / name for name in ("nbest", "offsets.npy", "sentences.npy"))
    write_imported(
        tmp_path / "theirs",
        codec,
        nbest,
        offsets,
        sentences,
        count=2,
        settings=Failures(),
        sources=[tmp_path / "src"],
        tags=[tmp_path / "tags"],
    )
    found = [line.split("\t")[-1] for line in read_lines(nbest)]
    assert found == ["it 's", "l' eau"]
