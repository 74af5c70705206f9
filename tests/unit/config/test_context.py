"""Tests of the settings of context: what they need, and what they cannot be combined with."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from tiny_pipeline import settings

from kdmt.config import Pipeline
from kdmt.config.messages import describe_problems
from kdmt.config.section import is_recorded


def document(context: object = None, **changes: Any) -> dict[str, Any]:
    """Return a pipeline with context, and changes by their YAML path."""
    made = settings()
    made["prepare"]["context"] = {} if context is None else context
    for path, value in changes.items():
        *parents, name = path.split(".")
        section = made
        for parent in parents:
            section = section[int(parent)] if isinstance(section, list) else section[parent]
        section[name] = value
    return made


def problem(made: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as raised:
        Pipeline.model_validate(made)
    return describe_problems(raised.value)


def test_context_has_one_sentence_by_default() -> None:
    context = Pipeline.model_validate(document()).prepare.context
    assert context is not None
    assert (context.sentences, context.separator) == (1, "<sep>")


def test_records_of_pipelines_without_context_do_not_have_the_setting() -> None:
    prepare = Pipeline.model_validate(settings()).prepare
    assert prepare.context is None
    assert not is_recorded(type(prepare).model_fields["context"], prepare.context)
    corpus = prepare.train[0]
    assert not is_recorded(type(corpus).model_fields["documents"], corpus.documents)


@pytest.mark.parametrize("separator", ["<s>", "</s>", "<unk>", "<pad>", "▁x", "a b", ""])
def test_the_separator_is_a_token_of_its_own(separator: str) -> None:
    assert "separator" in problem(document({"separator": separator}))


@pytest.mark.parametrize(
    ("path", "value", "refused"),
    [
        ("prepare.monolingual", [{"path": "mono.en"}], "'prepare.monolingual' cannot be combined"),
        ("prepare.tokenizer", {"type": "subword-nmt", "model": "bpe"}, "'prepare.tokenizer.type: subword-nmt' cannot"),
        ("prepare.clean", {"near_duplicates": 0.8}, "'prepare.clean.near_duplicates' cannot"),
        (
            "prepare.clean",
            {"rules": [{"filter": {"command": ["a"], "min": 0.5}}]},
            "'prepare.clean.rules.filter' cannot",
        ),
        ("prepare.train.0.clean", {"alignment": {"drop_percent": 5.0}}, "'prepare.train.0.clean.alignment' cannot"),
        ("distill.augment", {"typos": 0.1}, "'distill.augment' cannot"),
        ("distill.teachers", ["other"], "'distill.teachers' cannot"),
        ("distill.imported", "translations.de", "'distill.imported' cannot"),
        ("teacher.augment", {"typos": 0.1}, "'teacher.augment' cannot"),
        ("teacher.train.guided_alignment", {}, "'teacher.train.guided_alignment' cannot"),
        ("students.raw.augment", {"typos": 0.1}, "'students.raw.augment' cannot"),
        ("score.variants", {"typos": ["typos"]}, "'score.variants' cannot"),
    ],
)
def test_settings_that_read_sources_without_context_are_refused(path: str, value: object, refused: str) -> None:
    found = problem(document(**{path: value}))
    assert refused in found
    assert "'prepare.context'" in found


def test_several_directions_are_refused() -> None:
    made = document()
    del made["source_lang"], made["target_lang"]
    made["directions"] = ["en-de", "de-en"]
    for text in (*made["prepare"]["train"], made["prepare"]["valid"], made["prepare"]["test"]["test"]):
        text |= {"direction": "en-de", "reverse": True}
    made["prepare"]["valid"] = [made["prepare"]["valid"]]
    made["prepare"]["test"]["test"] = [made["prepare"]["test"]["test"]]
    assert "'prepare.context' cannot be combined with several directions" in problem(made)


@pytest.mark.parametrize("form", ["tsv", "tmx"])
def test_files_without_an_order_of_sentences_are_refused(form: str) -> None:
    found = problem(document(**{"prepare.train": [{form: {"path": "corpus"}}]}))
    assert f"'prepare.train.0.{form}' cannot be combined with 'prepare.context'" in found


def test_a_tag_is_not_the_separator() -> None:
    assert "'<sep>' is the tag of a corpus" in problem(document(**{"prepare.train.0.tag": "<sep>"}))


def test_names_of_documents_need_context() -> None:
    made = settings()
    made["prepare"]["valid"]["documents"] = {"path": "names"}
    assert "'prepare.valid.documents' has no effect without 'prepare.context'" in problem(made)
    made["prepare"]["context"] = {"sentences": 2}
    assert Pipeline.model_validate(made).prepare.valid.documents.name == "names"
