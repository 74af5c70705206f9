"""Tests of the folder of the prepare stage: names of files, and the typical ratio of lengths."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from tiny_pipeline import read_lines

from kdmt.config import Prepare
from kdmt.corpus.prepared import PreparedCorpus, spaced_sides
from kdmt.languages import POOLED, Direction


@pytest.fixture
def corpus(tmp_path: Path) -> PreparedCorpus:
    return PreparedCorpus(tmp_path, Direction("en", "de"), (True, True))


def test_files_are_named_as_in_fairseq(corpus: PreparedCorpus) -> None:
    assert corpus.prefix("valid", "de") == corpus.folder / "data-bin/valid.en-de.de"
    assert corpus.text("train", "en") == corpus.folder / "train.en"
    assert corpus.dictionary("en") == corpus.folder / "dict.en.txt"


def test_tags_are_none_unless_their_file_exists(corpus: PreparedCorpus) -> None:
    assert corpus.tags is None
    (corpus.folder / "train.tags").touch()
    assert corpus.tags == corpus.folder / "train.tags"


def test_the_ratio_is_measured_if_none_is_recorded(corpus: PreparedCorpus) -> None:
    corpus.text("train", "en").write_text("ab\nabc\nabcd\n")
    corpus.text("train", "de").write_text("abcd\nabcdef\nabcd\n")  # ratios 2, 2 and 1
    assert corpus.recorded_ratio() is None
    assert corpus.typical_ratio() == pytest.approx(2.0, rel=1e-3)
    (corpus.folder / "report.json").write_text(json.dumps({"typical_ratio": 1.25}))
    assert corpus.typical_ratio() == 1.25


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (True, False)),
        ({"text": {"already_applied": True}}, (True, True)),
        ({"tokenizer": {"type": "words"}}, (True, True)),
    ],
)
def test_tokenised_text_has_spaces_in_any_language(settings: dict[str, object], expected: tuple[bool, bool]) -> None:
    train = {"source": {"path": "a.en"}, "target": {"path": "a.ja"}}
    prepare = Prepare.model_validate({"train": [train], "valid": train, **settings})
    assert spaced_sides(prepare, Direction("en", "ja")) == expected


def test_each_direction_has_its_typical_ratio(multilingual_text: Path) -> None:
    texts = [read_lines(multilingual_text / name) for name in ("train.tags", "train.src", "train.tgt")]
    ratios: dict[str, list[float]] = {}
    for tag, source, target in zip(*texts, strict=True):
        ratios.setdefault(tag, []).append(len(target) / len(source))
    found = PreparedCorpus(multilingual_text, POOLED, (True, True)).typical_ratios()
    assert found == {tag: pytest.approx(statistics.median_low(own), rel=1e-3) for tag, own in ratios.items()}
    assert found["en-fr"] > 1 > found["fr-en"]
