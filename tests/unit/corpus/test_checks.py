"""Tests of checks of corpora: counts for report.json, and warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.corpus.checks import (
    check_held_out,
    check_malformed,
    check_sides,
    check_specials,
    report_findings,
)
from kdmt.corpus.text_files import Malformed

GERMAN = [f"Das ist der Satz Nummer {number} über ein Haus." for number in range(40)]
ENGLISH = [f"This is the sentence number {number} about a house." for number in range(40)]
PAIRS = list(zip(ENGLISH, GERMAN, strict=True))


def test_malformed_rows_are_counted_with_their_first_lines() -> None:
    news, clean = Malformed(), Malformed()
    for line in range(1, 10):
        news.add("not UTF-8", "news.tsv", line)
    report, warnings = check_malformed({"news": news, "clean": clean})
    assert report.keys() == {"news"}
    (warning,) = warnings
    assert warning.startswith("news: 9 malformed rows were left out: not UTF-8 (news.tsv line 1, news.tsv line 2")
    assert warning.endswith(", ...)")


def test_empty_lines_of_held_out_sets_are_counted() -> None:
    pairs = [("a", "b"), ("", "c"), (" \u200b", "d"), ("e", "f")]
    report, warnings = check_held_out({"valid": pairs})
    assert report == {"valid": {"lines": 4, "empty_source": 2, "empty_target": 0}}
    assert warnings == ["valid: 2 of 4 source lines are empty"]


def test_sentences_shared_between_held_out_sets_are_reported() -> None:
    test = [(source.upper(), f"other {target}") for source, target in PAIRS[:10]] + PAIRS[30:]
    report, warnings = check_held_out({"valid": PAIRS[:30], "test": test, "test2": test})
    assert report["test"]["shared"] == {"valid": 10}  # only sources, compared without case
    assert report["test2"]["shared"] == {"valid": 10, "test": 20}  # whole pairs
    assert warnings[0].startswith("test: 10 of 20 source sentences are those of valid: what is chosen by")
    assert any(warning.startswith("test2: 20 of 20 pairs are those of test") for warning in warnings)


def test_a_few_shared_sentences_are_counted_without_a_warning() -> None:
    test = [*PAIRS[:1], *((f"x {number}", f"y {number}") for number in range(39))]
    report, warnings = check_held_out({"valid": PAIRS, "test": test})
    assert report["test"]["shared"] == {"valid": 1}
    assert warnings == []


@pytest.mark.parametrize("exchanged", [False, True])
def test_exchanged_sides_are_reported(tmp_path: Path, exchanged: bool) -> None:
    good, bad = PAIRS[:20], [(target, source) if exchanged else (source, target) for source, target in PAIRS[20:]]
    sides = (tmp_path / "train.en", tmp_path / "train.de")
    for path, lines in zip(sides, zip(*good, *bad, strict=True), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines))
    report, warnings = check_sides(sides, {"good": 20, "bad": 20}, {"valid": PAIRS, "test": PAIRS[:5]})
    assert report.keys() == {"test", "good", "bad"}
    assert report["good"] == {"compared": 20, "exchanged": 0}
    assert report["bad"] == {"compared": 20, "exchanged": 20 if exchanged else 0}
    assert [warning.split(":")[0] for warning in warnings] == (["bad"] if exchanged else [])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (False, "the de side of the training set has 3 words <pad>: they count as <unk>"),
        (True, "the de side of the training set has 3 ids of <pad> inside sentences: they count as <unk>"),
    ],
)
def test_special_symbols_inside_sentences_are_reported(ids: bool, expected: str) -> None:
    report, warnings = check_specials({"en": {}, "de": {"<pad>": 3}}, ids=ids)
    assert report == {"de": {"<pad>": 3}}
    assert warnings == [expected]


def test_literal_unknown_words_are_counted_without_a_warning() -> None:
    assert check_specials({"de": {"<unk>": 9}}) == ({"de": {"<unk>": 9}}, [])


def test_every_warning_is_printed_and_every_count_returned() -> None:
    lines: list[str] = []
    findings = {"a": ({"n": 1}, ["first", "second"]), "b": ({}, [])}
    assert report_findings(findings, lines.append) == {"a": {"n": 1}, "b": {}}
    assert lines == ["prepare: warning: first", "prepare: warning: second"]
