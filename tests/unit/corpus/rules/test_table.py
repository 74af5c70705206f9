"""Tests of the table of rules: every rule of the settings is in it once, and the chosen rules are applied in order."""

from __future__ import annotations

import pytest

from kdmt.config import Clean
from kdmt.config.rules import LISTS, Rules
from kdmt.corpus.filters.table import FILTERS
from kdmt.corpus.rules.language import LanguageRule
from kdmt.corpus.rules.pair_text import LanguagePair
from kdmt.corpus.rules.table import (
    CHANGING_FIRST,
    CHANGING_LATER,
    CHANGING_RULES,
    DROPPING,
    DROPPING_RULES,
    build_rules,
    changing_names,
    dropping_names,
)

LANGUAGES = LanguagePair((True, True), ("en", "de"))


def test_every_rule_of_the_settings_is_in_the_table() -> None:
    listed = [*CHANGING_FIRST, *CHANGING_LATER, *DROPPING, LanguageRule.name, *FILTERS]
    assert listed == list(Rules.model_fields)


def test_rules_that_change_lines_have_their_place() -> None:
    clean = Clean.model_validate({"rules": ["punctuation", "tags", "entities", "mojibake"]})
    rules = build_rules(clean, LANGUAGES)
    names = [rule.name for rule in rules.changing[0]]
    assert names == ["mojibake", "entities", "tags", "invisible", "unicode", "punctuation", "whitespace"]
    assert set(names) == set(changing_names(clean))
    assert changing_names(Clean()) == changing_names("none") == CHANGING_RULES
    assert not rules.keeps_plain
    assert build_rules(Clean.model_validate({"rules": "default"}), LANGUAGES).keeps_plain


@pytest.mark.parametrize("name", list(DROPPING))
def test_a_rule_has_the_name_of_its_settings(name: str) -> None:
    rules = build_rules(Clean.model_validate({"rules": [name]}), LANGUAGES)
    assert rules.dropping[-1].name == name


def test_rules_are_applied_in_the_order_of_the_table() -> None:
    clean = Clean.model_validate({"rules": list(DROPPING)[::-1], "min_words": 2})
    rules = build_rules(clean, LANGUAGES)
    assert tuple(rule.name for rule in rules.dropping) == (*DROPPING_RULES, *DROPPING) == dropping_names(clean)


def test_without_rules_those_of_every_pipeline_are_applied() -> None:
    assert [rule.name for rule in build_rules(Clean(), LANGUAGES).dropping] == [
        *("empty", "max_words", "max_characters", "copy")
    ]
    nothing = Clean(max_words=0, max_characters=0, drop_copies=False)
    assert [rule.name for rule in build_rules(nothing, LANGUAGES).dropping] == ["empty"]
    assert dropping_names(nothing) == dropping_names("none") == DROPPING_RULES


@pytest.mark.parametrize("name", list(LISTS))
def test_a_list_has_its_rules(name: str) -> None:
    rules = Clean.model_validate({"rules": name}).rules
    assert rules is not None
    assert {rule for rule, settings in rules if settings is not None} == LISTS[name].keys()
