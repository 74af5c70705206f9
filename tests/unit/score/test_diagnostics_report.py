"""Diagnostics as text and as HTML."""

from __future__ import annotations

import re
from dataclasses import replace

from kdmt.score.diagnostics_report import diagnostics_html, diagnostics_text
from kdmt.score.system_diagnostics import DiagnosticsRow, Example, KindScores, SystemDiagnostics

KINDS = {"1 to 10 words": KindScores(5, 30.25, {"length": 98.0, "omitted": 2.0, "oscillating": 0.0})}
ROW = DiagnosticsRow("raw", "test", 1, 1, None, {"length": 97.5, "omitted": 4.0, "mtld": 61.2}, {}, KINDS)
REFERENCE = DiagnosticsRow("reference", "test", 0, 1, None, {"length": 100.0, "omitted": 0.0, "mtld": 70.0}, {}, {})
EXAMPLE = Example("omitted", "raw", "test", 7, "the <b> dog", "der Hund", {"raw": "der [red]", "kd": "der Hund"}, "dog")
FOUND = SystemDiagnostics("bleu", 0, 29_000, [ROW, replace(ROW, beam=5), REFERENCE], [EXAMPLE])


def test_systems_are_side_by_side_with_their_first_way_of_decoding() -> None:
    text = diagnostics_text(FOUND)
    assert re.search(r"^ +raw\n +reference +beam 1$", text, re.MULTILINE)
    assert "beam 5" not in text
    assert re.search(r"^omitted words \(%\) +0\.0 +4\.0$", text, re.MULTILINE)
    assert re.search(r"^MTLD \(words\) +70\.0 +61\.2$", text, re.MULTILINE)
    assert "BLEU by kind of sentence, test" in text
    assert re.search(r"^1 to 10 words \(5\) +30\.2$", text, re.MULTILINE)
    assert "oscillating by kind" not in text  # nothing but zeros
    assert "copies (%)" not in text  # no system has this figure
    assert "score.diagnostics.train_sentences" in text


def test_examples_show_all_systems() -> None:
    lines = diagnostics_text(FOUND).splitlines()
    at = lines.index("Omitted words:")
    assert lines[at + 1 : at + 6] == [
        "  test line 7, raw: dog",
        "    source     the <b> dog",
        "    reference  der Hund",
        "    raw        der [red]",
        "    kd         der Hund",
    ]


def test_a_line_with_a_problem_of_two_systems_is_shown_once() -> None:
    both = replace(FOUND, examples=[EXAMPLE, replace(EXAMPLE, system="kd", note="the")])
    assert diagnostics_text(both).count("the <b> dog") == 1
    assert "  test line 7, raw: dog; kd: the" in diagnostics_text(both).splitlines()


def test_seeds_are_averaged_and_systems_that_do_not_fit_are_in_another_table() -> None:
    other = replace(ROW, seed=2, figures={"length": 98.5, "omitted": None, "mtld": None})
    text = diagnostics_text(replace(FOUND, rows=[ROW, other, REFERENCE]))
    assert re.search(r"^length \(%\) +100\.0 +98\.0 ± 0\.7$", text, re.MULTILINE)
    assert "98.0 +/- 0.7" in diagnostics_text(replace(FOUND, rows=[ROW, other, REFERENCE]), ascii_only=True)
    many = [replace(ROW, system=f"student{number}") for number in range(9)]
    text = diagnostics_text(replace(FOUND, rows=many), width=80)
    assert text.count("diagnostics of test") == 3
    assert all(f"student{number}" in text for number in range(9))
    assert max(map(len, text.split("Omitted words:")[0].splitlines())) <= 80


def test_html_is_escaped_and_names_the_training_sentences() -> None:
    page = diagnostics_html(replace(FOUND, training_sentences=1000))
    assert "<h2>Diagnostics</h2>" in page
    assert "the &lt;b&gt; dog" in page
    assert "<h3>Omitted words</h3>" in page
    assert "1,000 training sentences" in page
    assert page.count("<table>") == page.count("</table>") == 5
