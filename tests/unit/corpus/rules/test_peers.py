"""Comparison with OpusFilter 3.3.1 and OpusCleaner 0.7.1: rules of the same meaning drop the same of 10,000 pairs.

The decisions of both programs are in tests/golden/cleaning/peers.json, which tests/golden/make_cleaning_parity.py made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from golden.cleaning_lines import LANGUAGES, digest, make_pairs

from kdmt.config import Clean
from kdmt.corpus.clean import broken_rule
from kdmt.corpus.rules.markup import Tags
from kdmt.corpus.rules.pair_text import LanguagePair, PairText
from kdmt.corpus.rules.table import build_rules

PAIRS = make_pairs()
RECORD = json.loads((Path(__file__).parents[3] / "golden" / "cleaning" / "peers.json").read_text(encoding="utf-8"))


def theirs(rule: str) -> list[bool]:
    """Return whether the other program drops each pair."""
    return [bit == "1" for bit in f"{int(RECORD['dropped'][rule], 16):0{len(PAIRS)}b}"]


def ours(settings: Mapping[str, Any]) -> list[bool]:
    """Return whether kdmt drops each pair with one rule."""
    clean = Clean.model_validate({"max_words": 0, "max_characters": 0, "drop_copies": False, **settings})
    rules = {code: build_rules(clean, LanguagePair((True, True), ("en", code))).dropping for code in LANGUAGES}
    return [broken_rule(PairText(source, target), rules[code]) is not None for code, source, target in PAIRS]


def rule(name: str, **settings: Any) -> dict[str, Any]:
    return {"rules": [{name: settings}]}


def test_the_pairs_are_those_that_the_other_programs_read() -> None:
    assert len(PAIRS) == RECORD["pairs"] == 10_000
    assert digest(PAIRS) == RECORD["sha256"]


@pytest.mark.parametrize(
    ("theirs_is", "settings"),
    [
        ("opusfilter.LongWordFilter", rule("longest_word", max=40)),
        ("opusfilter.AverageWordLengthFilter", rule("mean_word", min=2.0, max=20.0)),
        ("opusfilter.LengthRatioFilter.word", rule("length_ratio", min=0.5, slack=0)),
        ("opusfilter.LengthRatioFilter.char", rule("length_ratio", min=0.5, slack=0, unit="characters")),
        ("opusfilter.AlphabetRatioFilter", rule("letters", min=0.6)),
        ("opusfilter.CharacterScoreFilter", rule("script", min=0.5)),
        ("opusfilter.SimilarityFilter", rule("near_copy", max=0.8)),
        ("opuscleaner.max_length", {"min_words": 2, "max_words": 100}),
        ("opuscleaner.max_word_length", rule("longest_word", max=150)),
        ("opuscleaner.src_trg_ratio", rule("length_ratio", min=0.5, slack=0)),
    ],
)
def test_the_same_pairs_are_dropped(theirs_is: str, settings: dict[str, Any]) -> None:
    expected = theirs(theirs_is)
    assert sum(expected) > 300
    assert ours(settings) == expected


def test_tags_are_found_in_the_same_pairs() -> None:
    expected = theirs("opusfilter.HtmlTagFilter")
    assert sum(expected) > 300
    assert [any(Tags().edit(side) != side for side in sides) for _, *sides in PAIRS] == expected


def agree_unless(differs: Callable[[str, str], bool], first: list[bool], second: list[bool]) -> int:
    """Check that decisions agree on all pairs for which the definitions do, and return the number of other pairs."""
    others = [differs(source, target) for _, source, target in PAIRS]
    decisions = zip(PAIRS, first, second, others, strict=True)
    assert [pair for pair, one, two, other in decisions if one != two and not other] == []
    return sum(others)


def test_numbers_agree_except_those_within_words_and_with_separators() -> None:
    """For OpusCleaner, 5th and x2 are words, a sign is part of a number, and 1,000 is another number than 1000."""
    special = re.compile(r"[^\W\d]\d|\d[^\W\d]|[-+]\d|\d[.,:]\d")
    expected = theirs("opuscleaner.num_mismatch")
    assert sum(expected) > 300
    others = agree_unless(lambda *sides: any(map(special.search, sides)), ours(rule("numbers")), expected)
    assert others < 0.15 * len(PAIRS)


def test_links_agree_except_those_that_a_side_has_twice() -> None:
    """OpusCleaner compares lists of addresses, kdmt sets."""
    address = re.compile(r"\S+\.(?:com|org)\S*")
    expected = theirs("opuscleaner.url_mismatch")
    assert sum(expected) > 300

    def has_twice(*sides: str) -> bool:
        return any(len(found) != len(set(found)) for found in map(address.findall, sides))

    assert agree_unless(has_twice, ours(rule("links")), expected) < 0.1 * len(PAIRS)


def test_repeated_phrases_are_those_that_begin_and_end_with_words() -> None:
    """OpusFilter also finds phrases that begin or end within a word; it finds all that kdmt finds."""
    expected, found = theirs("opusfilter.RepetitionFilter"), ours(rule("repeated_phrases", times=3, min_length=5))
    assert all(their for their, our in zip(expected, found, strict=True) if our)
    assert sum(found) > 0.9 * sum(expected) > 270
