"""Tests of warnings about a corpus that loses many pairs to its rules."""

from __future__ import annotations

import pytest

from kdmt.corpus.dropped import (
    NUM_EXAMPLES,
    Examples,
    add_examples,
    cut_texts,
    describe_dropped,
    lost_much,
    show_texts,
    warning_lines,
)


@pytest.mark.parametrize(
    ("dropped", "much"),
    [
        ({}, False),
        ({"empty": 10}, False),  # a tenth of the pairs by one rule
        ({"empty": 11}, True),
        ({"empty": 10, "copy": 10}, False),  # a fifth of the pairs by all rules
        ({"empty": 10, "copy": 10, "length": 1}, True),
    ],
)
def test_thresholds_for_a_warning(dropped: dict[str, int], much: bool) -> None:
    assert lost_much(100, dropped) is much
    assert bool(list(warning_lines("news", "pairs dropped", 100, dropped, {}))) is much


def test_counts_are_described_in_descending_order() -> None:
    assert describe_dropped(4000, {"empty": 2, "max_ratio": 3857, "copy": 0}) == "max_ratio 3,857 (96%), empty 2"
    assert describe_dropped(0, {}) == "none"


def test_the_first_examples_of_each_rule_are_kept() -> None:
    examples: Examples = {}
    for start in range(0, 14, 2):
        add_examples(examples, {"copy": [(str(start), "x"), (str(start + 1), "x")]})
    add_examples(examples, {"empty": [("", "y")]})
    assert NUM_EXAMPLES == 10
    assert examples == {"copy": [(str(number), "x") for number in range(10)], "empty": [("", "y")]}


def test_texts_are_cut_and_equal_texts_are_shown_once() -> None:
    assert cut_texts("a" * 200, "b" * 201) == ("a" * 200, "b" * 200 + "...")
    assert show_texts(("a" * 60, "b" * 61)) == f"'{'a' * 60}' -> '{'b' * 60}...'"
    assert show_texts(("a", "b")) == "'a' -> 'b'"
    assert show_texts(("a", "a")) == "'a'"
    assert show_texts(("a\x1b",)) == r"'a\x1b'"


def test_a_warning_has_examples_of_rules_that_dropped_many_pairs() -> None:
    examples = {"copy": [("a", "a")], "empty": [("", "b")], "length": [("c", "d")]}
    found = list(warning_lines("news", "pairs dropped", 1000, {"copy": 150, "empty": 120, "length": 3}, examples))
    assert found == [
        "warning: news: 273 of 1,000 pairs dropped (27%): copy 150 (15%), empty 120 (12%), length 3",
        "  copy: 'a'",
        "  empty: '' -> 'b'",
    ]


def test_a_warning_has_examples_of_the_worst_rule_if_none_dropped_a_tenth() -> None:
    dropped = {"copy": 9, "empty": 8, "length": 7}
    found = list(warning_lines("news", "pairs dropped", 100, dropped, {rule: [("x", "y")] for rule in dropped}))
    assert found[1:] == ["  copy: 'x' -> 'y'"]
