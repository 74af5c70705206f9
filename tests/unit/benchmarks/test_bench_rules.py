"""Tests of the benchmark of cleaning rules: a figure for each rule, and the labels that it counts."""

from __future__ import annotations

from bench_rules import LabelledPair, changed, generate, measure, speed

from kdmt.config import Clean
from kdmt.config.rules import LISTS
from kdmt.corpus.rules.pair_text import LanguagePair
from kdmt.corpus.rules.table import CHANGING_FIRST, CHANGING_RULES, build_rules

LANGUAGES = LanguagePair((True, True), ("en", "de"))


def labelled(fault: str, source: str, target: str, *clean: str) -> LabelledPair:
    return LabelledPair(LANGUAGES, fault, (source, target), (clean[0], clean[1]) if clean else (source, target))


def test_every_rule_has_a_figure_of_its_time() -> None:
    names = [figure.name.removeprefix("rules_us_per_pair_") for figure in speed(generate(20))]
    assert set(names) >= {*LISTS["crawled"], *CHANGING_FIRST, *CHANGING_RULES}
    assert names[-2:] == ["rules_us_per_pair", "without"]
    assert generate(20) == generate(20)


def test_a_rule_that_drops_pairs_is_right_about_any_fault() -> None:
    pairs = [
        labelled("numbers", "in 1990", "in 1991"),
        labelled("numbers", "in 1990", "in 1990"),  # not found
        labelled("links", "see a.org 1", "siehe"),  # found by the rule for numbers too
        labelled("like_numbers", "30 yen", "dreißig Yen"),  # clean, but found
        labelled("none", "a", "b"),
    ]
    quality = measure("numbers", pairs)
    assert (quality.precision, quality.recall) == (2 / 3, 1 / 2)


def test_a_rule_that_changes_lines_is_right_if_the_line_becomes_the_clean_one() -> None:
    pairs = [
        labelled("entities", "a &amp; b", "c", "a & b", "c"),
        labelled("entities", "a &amp; b", "c", "a and b", "c"),  # changed into another text
        labelled("none", "a", "b"),
    ]
    quality = measure("entities", pairs)
    assert (quality.precision, quality.recall) == (1 / 2, 1 / 2)
    assert changed(("a  b", "c"), build_rules(Clean(), LANGUAGES)) == ("a b", "c")
