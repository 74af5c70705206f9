"""Tests of the list of data sets of a pair."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_index import small_index

from kdmt.config import Source
from kdmt.config.corpora import Corpus, HeldOut
from kdmt.corpus.datasets.catalogue import find_datasets, find_monolingual
from kdmt.corpus.datasets.recorded_index import recorded_index
from kdmt.corpus.datasets.resolve import resolve
from kdmt.languages import Direction


def names(tmp_path: Path, source: str, target: str, *, use: str = "train", all_versions: bool = False) -> list[str]:
    found = find_datasets(Direction(source, target), small_index(tmp_path), all_versions=all_versions)
    return [each.dataset.name for each in found if each.use == use]


def test_training_text_is_sorted_by_size_and_of_each_corpus_the_newest_version_is_listed(tmp_path: Path) -> None:
    assert names(tmp_path, "en", "de") == [
        "opus: Books/v1",
        "opus: News/v2019/de-en_GB",
        "opus: News/v2019",
        "mtdata: Group-text-1-deu-eng",
        "mtdata: Group-table-2-eng-deu",
        "mtdata: Group-memory-1-deu-eng",
        "iwslt: 2014",
        "iwslt: 2017",
    ]


def test_all_versions_are_listed_if_wanted(tmp_path: Path) -> None:
    found = names(tmp_path, "en", "de", all_versions=True)
    assert found[:3] == ["opus: Books/v1", "opus: News/v2018", "opus: News/v2019/de-en_GB"]


def test_test_sets_are_those_that_have_the_pair(tmp_path: Path) -> None:
    german = names(tmp_path, "en", "de", use="test")
    assert {"flores: dev", "flores: devtest", "sacrebleu: wmt14/full", "iwslt: 2014/tst2012"} <= set(german)
    assert "ntrex: true" not in german
    assert "ntrex: true" in names(tmp_path, "en", "is", use="test")


def test_training_sets_among_the_sets_of_sacrebleu_are_training_text(tmp_path: Path) -> None:
    assert "sacrebleu: mtnt1.1/train" in names(tmp_path, "en", "fr")
    assert "sacrebleu: mtnt1.1/valid" in names(tmp_path, "en", "fr", use="test")


def test_newest_versions_follow_from_numbers_and_dates() -> None:
    found = {each.dataset.name for each in find_datasets(Direction("en", "is"), recorded_index())}
    assert {"opus: ParaCrawl/v9", "opus: Tatoeba/v2023-04-12", "opus: XLEnt/v1.2"} <= found
    assert not {"opus: ParaCrawl/v8", "opus: ParaCrawl/v7.1", "opus: Tatoeba/v20190709", "opus: Tatoeba/v2"} & found


@pytest.mark.parametrize(
    "direction",
    [
        Direction("en", "is"),
        pytest.param(Direction("zh", "en"), marks=pytest.mark.slow),
        pytest.param(Direction("pt_BR", "de"), marks=pytest.mark.slow),
    ],
)
def test_every_name_can_be_pasted(direction: Direction) -> None:
    found = find_datasets(direction, recorded_index(), all_versions=True)
    assert found
    for each in found:
        kind, _, value = each.dataset.name.partition(": ")
        assert resolve(kind, True if value == "true" else value, direction).entry == each.dataset.entry


@pytest.mark.parametrize("direction", [Direction("en", "is"), Direction("zh", "en"), Direction("de", "en")])
def test_every_entry_is_valid_as_settings(direction: Direction) -> None:
    for each in find_datasets(direction, recorded_index()):
        section = HeldOut if each.use == "test" else Corpus
        settings = section.model_validate(each.dataset.entry)
        assert settings.files
        assert all(source.url and source.sha256 is None for source in settings.files)


@pytest.mark.parametrize("language", ["en", "de", "is"])
def test_every_monolingual_entry_is_valid_as_settings(language: str) -> None:
    for each in find_monolingual(language, recorded_index()):
        assert Source.model_validate(each.dataset.entry).url


def test_monolingual_text(tmp_path: Path) -> None:
    found = find_monolingual("de", small_index(tmp_path))
    assert [(each.dataset.name, each.use) for each in found] == [("mtdata: Group-text-1-deu", "monolingual")]
