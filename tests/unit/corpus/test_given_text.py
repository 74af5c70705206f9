"""Tests of listing the texts that the section `prepare` names."""

from __future__ import annotations

from kdmt.config import Prepare
from kdmt.corpus.given_text import held_out_texts, sources_of, text_sources, texts_by_path


def pair(name: str) -> dict[str, object]:
    return {"source": {"path": f"{name}.en"}, "target": {"path": f"{name}.de"}}


PREPARE = Prepare.model_validate(
    {
        "train": [pair("a"), {"tsv": {"path": "b.tsv"}}],
        "valid": pair("valid"),
        "test": {"one": pair("one") | {"raw_target": {"path": "one.raw.de"}}},
        "monolingual": [{"path": "mono.en"}],
        "monolingual_target": [{"path": "mono.de"}],
    }
)


def test_every_file_is_listed_once_in_the_order_of_the_settings() -> None:
    names = ["a.en", "a.de", "b.tsv", "valid.en", "valid.de", "one.en", "one.de", "one.raw.de", "mono.en", "mono.de"]
    assert [source.path for source in text_sources(PREPARE)] == names


def test_held_out_texts_are_listed_by_split() -> None:
    assert list(held_out_texts(PREPARE)) == ["valid", "one"]
    assert [source.path for source in sources_of(held_out_texts(PREPARE)["valid"])] == ["valid.en", "valid.de"]


def test_every_text_has_its_yaml_path() -> None:
    found = texts_by_path(PREPARE)
    assert list(found) == [
        "prepare.train.0",
        "prepare.train.1",
        "prepare.valid",
        "prepare.test.one",
        "prepare.monolingual.0",
        "prepare.monolingual_target.0",
    ]
    assert [found["prepare.train.1"], found["prepare.monolingual.0"]] == [PREPARE.train[1], PREPARE.monolingual[0]]
