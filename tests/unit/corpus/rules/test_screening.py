"""Tests of the fast tests of many pairs: they leave out no pair that breaks a rule, and most clean pairs."""

from __future__ import annotations

import random

import pytest

from kdmt.config import Clean
from kdmt.corpus.clean import broken_rule
from kdmt.corpus.rules.pair_text import WORD_SPACE, LanguagePair, PairText
from kdmt.corpus.rules.screening import plain_lines, suspected_rules
from kdmt.corpus.rules.table import build_rules
from kdmt.corpus.rules.tidying import is_plain

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


@pytest.mark.parametrize("separator", ["", "\n"])
def test_lines_are_plain_as_the_test_of_one_line_finds(separator: str) -> None:
    rng = random.Random(4)
    characters = [*"aZ9 ~&<", "\x7f", "\x1f", "\t", *"éÿÀ×ā¿…語😀"]
    weights = [30, 10, 5, 12, 2, *[0.3] * 5, 3, 3, 3, *[0.3] * 6]
    lines = ["".join(rng.choices(characters, weights, k=rng.randrange(8))) for _ in range(4500)]
    lines[2000] += separator
    found = plain_lines(lines).tolist()
    assert found == list(map(is_plain, lines))
    assert 1000 < sum(found) < 4000
    assert plain_lines([]).tolist() == []


@pytest.mark.parametrize("times", [2, 3, 4])
def test_repeated_phrases_of_any_number_of_words_are_suspected(times: int) -> None:
    clean = Clean.model_validate({"rules": [{"repeated_phrases": {"times": times, "min_length": 1}}]})
    rules = build_rules(clean, LanguagePair(codes=("en", "de"))).dropping
    rng = random.Random(times)
    lines = []
    for _ in range(1500):
        before, phrase, after = (
            ["".join(rng.choices("abcé", k=rng.randrange(1, 4))) for _ in range(rng.randrange(most))]
            for most in (6, 40, 6)
        )
        lines.append(" ".join([*before, *phrase * times, *after, f"{len(lines)}"]))
    suspected = suspected_rules(rules, lines, ["x"] * len(lines))
    broken = [broken_rule(PairText(line, "x"), rules) for line in lines]
    assert broken.count("repeated_phrases") > 1000
    for rule, own in zip(broken, suspected, strict=True):
        assert rule is None or rule in [each.name for each in own]


def test_words_that_occur_often_are_no_repeated_phrase() -> None:
    rules = build_rules(Clean.model_validate({"rules": "default"}), LanguagePair(codes=("en", "de"))).dropping
    line = "The man and the dog and a cat saw the house of the man and went home."
    assert suspected_rules(rules, [line], ["Der Mann, der Hund und die Katze sahen das Haus und gingen heim."]) == [()]


@pytest.mark.parametrize("maximum", [0.9, 0.7, 0.35])
def test_near_copies_at_the_limit_are_suspected(maximum: float) -> None:
    clean = Clean.model_validate({"rules": [{"near_copy": {"max": maximum}}]})
    rules = build_rules(clean, LanguagePair(codes=("en", "de"))).dropping
    pairs = [("a" * length, "a" * (length - edits) + "b" * edits) for length in range(1, 60) for edits in range(length)]
    suspected = suspected_rules(rules, [source for source, _ in pairs], [target for _, target in pairs])
    wanted = [broken_rule(PairText(*pair), rules) for pair in pairs]
    assert [broken_rule(PairText(*pair), own) for pair, own in zip(pairs, suspected, strict=True)] == wanted
    assert "near_copy" in wanted
    assert None in wanted
