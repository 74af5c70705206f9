"""Tests of the settings of cleaning rules: the forms in which a file may write them, and changes for one corpus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny_pipeline

from kdmt.config import Clean, Pipeline, flatten_settings, resolved
from kdmt.config.rules import LISTS, LongestWord, Numbers, Rules

Load = Callable[..., Pipeline]


def rules_of(value: object) -> Rules | None:
    return Clean.model_validate({"rules": value}).rules


@pytest.mark.parametrize(
    ("value", "rules"),
    [
        (None, None),
        ([], Rules()),
        (["numbers"], Rules(numbers=Numbers())),
        ([{"numbers": {"min": 0.5}}], Rules(numbers=Numbers(min=0.5))),
        ([{"numbers": None}, {"longest_word": True}], Rules(numbers=Numbers(), longest_word=LongestWord())),
        ([{"numbers": {"min": 0.5}}, "numbers"], Rules(numbers=Numbers(min=0.5))),
        ([{"longest_word": {"max": 9}, "numbers": {}}, {"numbers": False}], Rules(longest_word=LongestWord(max=9))),
        ({"numbers": {"min": 0.5}}, Rules(numbers=Numbers(min=0.5))),
        ({"numbers": None, "longest_word": {}}, Rules(longest_word=LongestWord())),
    ],
)
def test_rules_may_be_names_or_mappings(value: object, rules: Rules | None) -> None:
    assert rules_of(value) == rules


@pytest.mark.parametrize("name", list(LISTS))
def test_a_list_may_be_changed(name: str) -> None:
    whole, changed = rules_of(name), rules_of([name, {"numbers": False}, {"longest_word": {"max": 7}}])
    assert whole is not None
    assert changed == whole.model_copy(update={"numbers": None, "longest_word": LongestWord(max=7)})


@pytest.mark.parametrize("value", [None, "default", ["numbers"], []])
def test_resolved_rules_are_read_as_the_same_rules(load: Load, value: Any) -> None:
    document = tiny_pipeline.settings()
    document["prepare"]["clean"] = {"rules": value}
    pipeline = load(text=tiny_pipeline.to_yaml(document))
    assert Pipeline.model_validate(resolved(pipeline)) == pipeline


def test_rules_of_a_record_have_their_settings_by_path() -> None:
    clean = Clean.model_validate({"rules": [{"numbers": {"min": 0.5}}]})
    settings = flatten_settings(clean, "result")
    assert settings["rules.numbers.min"].value == 0.5
    assert settings["rules.longest_word"].value is None
    assert flatten_settings(Clean(), "result")["rules"].value is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("prepare.clean.rules=all", "prepare.clean.rules: should be 'default'"),
        ("prepare.clean.rules=[number]", "prepare.clean.rules: 'number' is no rule; the rules are mojibake, "),
        ("prepare.clean.rules=[{numbers: {max: 1}}]", "prepare.clean.rules.numbers.max: unknown setting"),
        ("prepare.clean.rules=[{longest_word: {max: 0}}]", "prepare.clean.rules.longest_word.max: should be greater"),
        ("prepare.clean.rules=[{numbers: 3}]", "prepare.clean.rules.numbers: expected a mapping of settings"),
        (
            "prepare.clean.rules=[{language: {sides: source, swap: false}}]",
            "prepare.clean.rules.language: 'swap' has no effect with 'sides: source'",
        ),
        ("prepare.clean.rules=3", "prepare.clean.rules: expected a mapping of settings"),
        ("prepare.train.0.clean={number: 1}", "'prepare.train.0.clean': 'number' is no rule"),
        ("prepare.train.0.clean={numbers: false}", "'prepare.train.0.clean': 'numbers: false' has no effect"),
        (
            "prepare.train.0.clean={numbers: {min: 0.0}}",
            "'prepare.train.0.clean': rules.numbers.min: should be ",
        ),
        ("prepare.train.0.clean={max_words: -1}", "'prepare.train.0.clean': max_words: should be greater"),
        ("prepare.train.0.clean={unicode_form: NFKC}", "'prepare.train.0.clean': 'unicode_form' is no rule"),
        (
            "prepare={clean: none, decontaminate: false, train: [{tsv: {path: x}, clean: {max_words: 9}}]}",
            "'prepare.train.0.clean' has no effect with 'prepare.clean: none'",
        ),
    ],
)
def test_what_is_not_valid_is_named_by_its_path(problem: Any, override: str, expected: str) -> None:
    if override.startswith("prepare={"):
        override = override.replace("prepare={", "prepare={valid: {tsv: {path: x}}, ")
    assert problem(override).startswith(expected)


def test_a_corpus_changes_limits_and_rules_by_name(load: Load) -> None:
    pipeline = load(
        "prepare.clean={rules: [{longest_word: {max: 9}}, numbers], max_words: 50}",
        "prepare.train.0.clean={max_words: 20, numbers: false, longest_word: {max: 5}}",
    )
    own = pipeline.prepare.clean_of(pipeline.prepare.train[0])
    assert own == Clean(max_words=20, rules=Rules(longest_word=LongestWord(max=5)))


def test_changes_of_a_corpus_add_to_the_settings_of_a_rule() -> None:
    clean = Clean.model_validate({"rules": [{"numbers": {"min": 0.5}}]})
    assert clean.with_changes({"numbers": {}}) == clean
    assert clean.with_changes({}) is clean
    crawled = Clean.model_validate({"rules": ["crawled", {"numbers": False}]})
    assert clean.with_changes({"rules": "crawled", "numbers": False}) == crawled
    assert Clean().with_changes({"numbers": True}) == Clean(rules=Rules(numbers=Numbers()))


def test_changes_of_a_corpus_are_settings_of_its_record(load: Load) -> None:
    prepare = load("prepare.train.0.clean={numbers: {min: 0.5}}").prepare
    settings = flatten_settings(prepare, "result")
    assert settings["train.0.clean.numbers.min"].value == 0.5
    assert not [path for path in flatten_settings(load().prepare, "result") if path.startswith("train.0.clean")]


@pytest.mark.parametrize(("sides", "judged"), [("both", (0, 1)), ("source", (0,)), ("target", (1,))])
@pytest.mark.parametrize("side", [0, 1])
def test_text_of_one_language_is_judged_once_and_never_swapped(sides: str, judged: tuple[int, ...], side: int) -> None:
    expected: dict[str, Any] | None = {"sides": "source", "min": 0.7} if side in judged else None
    clean = Clean.model_validate({"rules": ["numbers", {"near_copy": {}}, {"language": {"min": 0.7, "sides": sides}}]})
    rules = [{"numbers": {}}, *([] if expected is None else [{"language": expected}])]
    assert clean.for_lines(side) == Clean.model_validate({"drop_copies": False, "rules": rules})
