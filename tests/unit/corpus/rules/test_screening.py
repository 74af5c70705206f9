"""Tests of the fast tests of many pairs: they leave out no pair that breaks a rule, and most clean pairs."""

from __future__ import annotations

import random

import pytest

from kdmt.config import Clean
from kdmt.corpus.clean import broken_rule
from kdmt.corpus.rules.pair_text import WORD_SPACE, LanguagePair, PairText
from kdmt.corpus.rules.screening import suspected_rules
from kdmt.corpus.rules.table import build_rules

PARTS = (
    *("the", "a", "house", "Straße", "größer", "1,000", "2", "x", "www.example.org/a", "http://a.b", "me@example.org"),
    *("{{", "</b>", "[", ".", "...", "!", "?", "?!", "Ende.", "\ufffd", "\ue000", "日本語", "東京。", "дом", "२", "٣"),
    *(
        "aaaaaaaaaaaa",
        "ééééééééééé",
        "-----------",
        "menu one",
        "ab cd ef ab cd ef ab cd ef",
        "w" * 60,
        "ሰላም",
        WORD_SPACE,
    ),
)
SETTINGS = (
    {"rules": "default"},
    {"rules": "crawled", "min_words": 2, "max_words": 8, "max_characters": 60},
    {"rules": [{"repeated_characters": {"max": 1}}, {"repeated_phrases": {"times": 2, "min_length": 1}}]},
    {"rules": [{"repeated_characters": {"max": 3}}, {"near_copy": {"max": 0.5}}, {"longest_word": {"max": 5}}]},
    {},
)


def make_pairs(count: int) -> list[tuple[str, str]]:
    rng = random.Random(3)
    pairs = []
    for _ in range(count):
        source = [rng.choice(PARTS) for _ in range(rng.randrange(12))]
        target = list(source) if rng.random() < 0.5 else [rng.choice(PARTS) for _ in range(rng.randrange(12))]
        if target and rng.random() < 0.7:
            target[rng.randrange(len(target))] = rng.choice(PARTS)
        pairs.append((rng.choice((" ", "")).join(source), " ".join(target)))
    return pairs


@pytest.mark.parametrize("clean", SETTINGS)
@pytest.mark.parametrize("spaced", [(True, True), (False, True)])
@pytest.mark.parametrize("codes", [("en", "de"), ("ja", "ru")])
def test_every_pair_breaks_the_same_rule_after_screening(
    clean: dict[str, object], spaced: tuple[bool, bool], codes: tuple[str, str]
) -> None:
    rules = build_rules(Clean.model_validate(clean), LanguagePair(spaced, codes)).dropping
    pairs = make_pairs(2500)
    suspected = suspected_rules(rules, *map(list, zip(*pairs, strict=True)))  # type: ignore[arg-type]
    wanted = [broken_rule(PairText(*pair), rules) for pair in pairs]
    assert [broken_rule(PairText(*pair), own) for pair, own in zip(pairs, suspected, strict=True)] == wanted
    assert len(set(wanted)) > 2


def test_clean_pairs_are_suspected_of_nothing() -> None:
    rules = build_rules(Clean.model_validate({"rules": "default"}), LanguagePair(codes=("en", "de"))).dropping
    pair = (
        "The committee has approved the budget.",
        "Der Ausschuss hat den größeren Haushalt für dieses Jahr gebilligt.",
    )
    assert suspected_rules(rules, [pair[0], ""], [pair[1], "x"])[0] == ()
    assert suspected_rules(rules, [], []) == []


def test_rules_without_a_test_apply_to_every_pair() -> None:
    clean = Clean.model_validate({"rules": ["length_ratio"]})
    rules = build_rules(clean, LanguagePair(codes=("en", "de"))).dropping
    assert [rule.name for rule in suspected_rules(rules, ["one two"], ["eins zwei drei"])[0]] == ["length_ratio"]
