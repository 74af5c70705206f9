"""Tests of the two kinds of rules: every rule of the table is one of them."""

from __future__ import annotations

import pytest

from kdmt.config import Clean
from kdmt.corpus.rules.pair_text import LanguagePair, PairText
from kdmt.corpus.rules.table import CHANGING_FIRST, CHANGING_LATER, DROPPING, build_rules

RULES = build_rules(
    Clean.model_validate({"rules": [*CHANGING_FIRST, *CHANGING_LATER, *DROPPING], "min_words": 2}),
    LanguagePair((True, True), ("en", "de")),
)
LINES = ("Good", "A good line.", "Eine „gute“ Zeile mit 2 Ä.", "文字", "1 2")


@pytest.mark.parametrize("line", LINES)
def test_an_edited_line_is_not_edited_again(line: str) -> None:
    for rule in RULES.changing[0]:
        edited = rule.edit(line)
        assert rule.edit(edited) == edited


@pytest.mark.parametrize("source", LINES)
@pytest.mark.parametrize("target", LINES)
def test_a_rule_answers_with_a_truth_value_and_always_the_same(source: str, target: str) -> None:
    pair = PairText(source, target)
    for rule in RULES.dropping:
        assert rule.breaks(pair) is rule.breaks(PairText(source, target)) is bool(rule.breaks(pair))
