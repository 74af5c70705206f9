"""Noise in the text that the teacher translates: lines in their order, chunks, monolingual text, the data-bin."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import hash_tree, read_lines, write_lines

from kdmt.config import DistillAugment
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.distill import noised
from kdmt.distill.inputs import Inputs
from kdmt.distill.noised import NOISED, write_noised_text
from kdmt.languages import Direction

PREPARED = Path("runs/tiny/prepare")


def inputs(**changes: object) -> Inputs:
    corpus = PreparedCorpus(PREPARED, Direction("en", "de"), (True, True))
    return replace(Inputs(corpus, noised=Path("out") / NOISED), **changes)  # type: ignore[arg-type]


@pytest.fixture
def prepared(finished: Path) -> Path:
    Path("out").mkdir()
    return finished


@pytest.mark.usefixtures("prepared")
def test_lines_are_changed_in_their_places() -> None:
    given = inputs()
    write_noised_text(given, DistillAugment(merged=0.3))
    old, new = ([read_lines(folder / f"train.{lang}") for lang in ("en", "de")] for folder in (PREPARED, given.noised))
    num_lines = len(old[0])
    merged = 0
    for line in range(num_lines):
        pair, before = (new[0][line], new[1][line]), (old[0][line], old[1][line])
        if pair != before:
            merged += 1
            assert pair == (f"{before[0]} {old[0][line + 1]}", f"{before[1]} {old[1][line + 1]}")
    assert [len(side) for side in new] == [num_lines, num_lines]
    assert abs(merged - 0.3 * num_lines) < 5 * (num_lines * 0.21) ** 0.5
    assert given.num_lines() == given.num_references() == num_lines
    (prefix,) = given.source_prefixes()
    expected = given.corpus.codec().encode_source(new[0])
    assert all((found == ids).all() for found, ids in zip(IndexedDataset(prefix), expected, strict=True))  # type: ignore[call-overload]


@pytest.mark.usefixtures("prepared")
def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    write_noised_text(inputs(), DistillAugment(merged=0.5))
    whole = hash_tree(Path("out"))
    shutil.rmtree(Path("out") / NOISED)
    monkeypatch.setattr(noised, "_CHUNK_LINES", 3)
    write_noised_text(inputs(), DistillAugment(merged=0.5))
    assert hash_tree(Path("out")) == whole
    write_noised_text(inputs(), DistillAugment(merged=0.1))  # it is there
    assert hash_tree(Path("out")) == whole


@pytest.mark.usefixtures("prepared")
def test_another_seed_changes_other_lines() -> None:
    found = []
    for seed in (1, 2):
        folder = Path(f"out/{seed}") / NOISED
        folder.parent.mkdir()
        write_noised_text(inputs(noised=folder), DistillAugment(merged=0.5, seed=seed))
        found.append(read_lines(folder / "train.en"))
    assert found[0] != found[1]


@pytest.mark.usefixtures("prepared")
def test_monolingual_text_is_changed_too() -> None:
    lines = read_lines(PREPARED / "train.en")[:40]
    write_lines(PREPARED / "monolingual.en", lines)
    given = inputs(monolingual=True)
    write_noised_text(given, DistillAugment(merged=1.0))
    assert given.noised is not None
    expected = [f"{first} {second}" if first != second else first for first, second in itertools.pairwise(lines)]
    assert read_lines(given.noised / "monolingual.en") == [*expected, lines[-1]]
    assert not (given.noised / "monolingual.de").exists()
    num_lines = [len(IndexedDataset(prefix)) for prefix in given.source_prefixes()]
    assert num_lines[1] == 40


@pytest.mark.usefixtures("prepared")
def test_a_line_that_the_vocabulary_cannot_have_stays_as_it_was() -> None:
    """The tiny vocabulary has no capital letters."""
    given = inputs()
    write_noised_text(given, DistillAugment(upper_case=1.0))
    assert given.noised is not None
    assert read_lines(given.noised / "train.en") == read_lines(PREPARED / "train.en")
    assert np.array_equal(
        IndexedDataset(given.source_prefixes()[0]).sizes,
        IndexedDataset(replace(given, noised=None).source_prefixes()[0]).sizes,
    )
