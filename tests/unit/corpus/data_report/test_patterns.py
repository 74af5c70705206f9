"""Tests of the frequent beginnings of dropped pairs."""

from __future__ import annotations

from collections import Counter

from kdmt.corpus.data_report import patterns as module
from kdmt.corpus.data_report.patterns import (
    PatternCounts,
    add_patterns,
    frequent_patterns,
    list_patterns,
    pattern_of,
    prune_chunk,
)


def test_numbers_and_whitespace_do_not_distinguish_patterns() -> None:
    assert pattern_of("Copyright  2019 by A", "© 1999\tA") == ("Copyright 0 by A", "© 0 A")
    assert pattern_of("page 1 of 20", "Seite ١٢") == pattern_of("page 12 of 3", "Seite 5")


def test_only_the_beginning_counts() -> None:
    assert pattern_of("a" * 50 + "b", "x") == pattern_of("a" * 50 + "c", "x") == ("a" * 40, "x")


def test_patterns_of_all_corpora_are_added_and_single_ones_left_out() -> None:
    first: PatternCounts = {"empty": Counter({("a", ""): 1, ("b", ""): 3}), "copy": Counter({("x", "x"): 1})}
    second: PatternCounts = {"empty": Counter({("a", ""): 3, ("c", ""): 1})}
    assert frequent_patterns([list_patterns(first), list_patterns(second)]) == {
        "empty": [(("a", ""), 4), (("b", ""), 3)]
    }


def test_memory_is_bounded_and_the_frequent_ones_stay() -> None:
    found: PatternCounts = {}
    for chunk in range(300):
        counts = Counter({(f"{chunk} {number}", ""): 1 for number in range(400)}) + Counter({("often", ""): 5})
        add_patterns(found, prune_chunk({"empty": counts}))
        assert len(found["empty"]) <= 2 * module._MOST_IN_CORPUS
    assert frequent_patterns([list_patterns(found)]) == {"empty": [(("often", ""), 1500)]}


def test_a_chunk_keeps_the_most_frequent_patterns() -> None:
    counts = Counter({(f"{number:05d}", ""): 1 + number % 7 for number in range(2_000)})
    kept = prune_chunk({"empty": counts})["empty"]
    assert len(kept) == module._MOST_IN_CHUNK
    assert min(kept.values()) >= max(count for pattern, count in counts.items() if pattern not in kept)
