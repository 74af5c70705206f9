"""Tests of the corpora of the languages of known modes."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest

from kdmt.toy.mode_files import COUNTS, SIDES, SPLITS, is_up_to_date, make_pairs, write_pairs
from kdmt.toy.modes import LANGUAGES, classify, translations

BOTH = pytest.mark.parametrize("language", LANGUAGES.values(), ids=lambda language: language.name)
SMALL = {"test": 30, "valid": 20, "train": 50}


@BOTH
def test_references_are_right_translations_in_equally_frequent_dialects(language):
    corpus = make_pairs(language, {"test": 0, "valid": 0, "train": 4000}, seed=2)
    counts = Counter()
    for source, target in corpus["train"]:
        assert classify(language, source, target) == "valid"
        counts[translations(language, source).index(target)] += 1
    share = 1 / len(language.dialects)
    assert len(counts) == len(language.dialects)
    for count in counts.values():
        assert abs(count - 4000 * share) < 4 * math.sqrt(4000 * share * (1 - share))


@BOTH
def test_no_source_occurs_twice(language):
    corpus = make_pairs(language, {"test": 500, "valid": 500, "train": 5000}, seed=1)
    assert {split: len(pairs) for split, pairs in corpus.items()} == {"test": 500, "valid": 500, "train": 5000}
    sources = [source for pairs in corpus.values() for source, _ in pairs]
    assert len(set(sources)) == len(sources)


def test_smaller_training_set_is_a_prefix():
    language = LANGUAGES["three"]
    smaller, larger = (make_pairs(language, SMALL | {"train": count}, seed=4) for count in (50, 80))
    assert larger["train"][:50] == smaller["train"]
    assert larger["test"] == smaller["test"]


def test_seeds_give_different_text():
    language = LANGUAGES["two"]
    first, second = (make_pairs(language, SMALL, seed)["train"] for seed in (1, 2))
    assert not set(first) & set(second)


@BOTH
def test_files_hold_the_pairs(language, tmp_path):
    write_pairs(tmp_path, language, SMALL, seed=3)
    for split, pairs in make_pairs(language, SMALL, seed=3).items():
        sides = [(tmp_path / f"{split}.{code}").read_text().splitlines() for code in SIDES]
        assert list(zip(*sides, strict=True)) == pairs
    names = {f"{split}.{code}" for split in SPLITS for code in SIDES} | {"manifest.json"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_folder_is_up_to_date_until_a_value_or_a_file_changes(tmp_path):
    two, three = LANGUAGES["two"], LANGUAGES["three"]
    assert not is_up_to_date(tmp_path / "missing", two, SMALL, 3)
    write_pairs(tmp_path, two, SMALL, seed=3)
    assert is_up_to_date(tmp_path, two, SMALL, 3)
    assert not is_up_to_date(tmp_path, three, SMALL, 3)
    assert not is_up_to_date(tmp_path, two, SMALL | {"train": 51}, 3)
    assert not is_up_to_date(tmp_path, two, SMALL, 4)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"generator": {}}))
    assert not is_up_to_date(tmp_path, two, SMALL, 3)
    write_pairs(tmp_path, two, SMALL, seed=3)
    (tmp_path / "test.qab").write_text("a00\n")
    assert not is_up_to_date(tmp_path, two, SMALL, 3)
    (tmp_path / "test.qab").unlink()
    assert not is_up_to_date(tmp_path, two, SMALL, 3)


def test_default_sizes():
    assert COUNTS == {"train": 20_000, "valid": 1000, "test": 1000}
