"""Tables of the documentation are those of the committed results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import result_values
import write_results
from science.claims import load_claims

MEASURE = {
    "what": "beam 5 minus greedy",
    "metric": "bleu",
    "expect": "above",
    "size": 0.8,
    "unit": "BLEU",
    "signature": "tok:13a",
    "estimate": 1.25,
    "interval": [0.5, 2.0],
    "verdict": "holds",
}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the results of two claims."""
    folder = tmp_path / "science"
    folder.mkdir()
    for identifier, scores in (("S10", [1.0]), ("S4", [1.0, 2.0, 3.0])):
        claim = {
            "id": identifier,
            "title": "A title",
            "claim": "A claim.",
            "source": "A paper",
            "set_up": "A\nset-up",
            "note": "",
        }
        document = {
            "command": f"make science CLAIM={identifier}",
            "commit": "0123456789",
            "machine": {"cores": 2, "cpu": "A processor", "instruction_sets": ["fma", "avx2", "avx512f"]},
            "settings": {"claim": claim, "measures": [MEASURE], "scores": {"toy:raw/beam5 bleu": scores}},
        }
        (folder / f"{identifier.lower()}.json").write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(result_values, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("results")
def test_the_scoreboard_has_rows_for_measures_and_then_names_the_other_claims() -> None:
    table, sentence, others = write_results.scoreboard().split("\n\n")
    assert table.splitlines()[2:] == [
        f"| {name}: {claim.title} | beam 5 minus greedy | at least 0.8 BLEU | 1.25 (0.50 to 2.00) | **holds** |"
        for name, claim in load_claims().items()
        if name in ("S4", "S10")
    ]
    assert "not measured yet" in sentence
    assert others.splitlines() == [
        f"- {name}: {claim.title}" for name, claim in load_claims().items() if name not in ("S4", "S10")
    ]


@pytest.mark.usefixtures("results")
def test_a_claim_has_its_scores_with_deviation_command_and_commit() -> None:
    text = write_results.claim_details("S4")
    assert "- Verdict: 1 of 1 [measures](results.md#claims-of-the-literature) hold" in text
    assert "| `toy:raw/beam5` | bleu | 2.00 ± 1.00 BLEU | 3 |" in text  # sample standard deviation
    assert "`make science CLAIM=S4`, commit 0123456, 2 cores of A processor (AVX-512)" in text
    assert "- Set-up: A set-up" in text
    assert "| `toy:raw/beam5` | bleu | 1.00 BLEU | 1 |" in write_results.claim_details("S10")


@pytest.mark.usefixtures("results")
def test_filling_a_page_replaces_what_is_between_the_comments_and_nothing_else() -> None:
    page = "before\n<!-- table: scoreboard -->\nprevious\n<!-- end of table -->\nafter\n"
    once = write_results.fill(page)
    assert once.startswith("before\n<!-- table: scoreboard -->\n\n| claim |")
    assert once.endswith("\n\n<!-- end of table -->\nafter\n")
    assert "previous" not in once
    assert write_results.fill(once) == once


def write_figures(results: Path, bench: str, settings: object = None, **values: float) -> None:
    machine = {"cores": 2, "cpu": "A processor", "instruction_sets": ["avx2"]}
    figures = [{"name": name, "value": value, "unit": "x"} for name, value in values.items()]
    result = {"command": f"make bench-{bench}", "commit": "0123456789", "machine": machine, "figures": figures}
    (results / f"{bench}.json").write_text(json.dumps({**result, "settings": settings}), encoding="utf-8")


def test_cleaning_rules_have_their_time_and_quality(results: Path) -> None:
    time = "rules_us_per_pair"
    times = {f"{time}_unicode": 0.25, f"{time}_numbers": 1.5, time: 14.04, f"{time}_without": 6.0}
    quality = {"rules_precision_numbers": 99.0, "rules_recall_numbers": 62.5}
    kept = {"rules_kept_default": 98.5, "rules_kept_crawled": 95.0}
    write_figures(results, "rules", **times, **quality, **kept)
    text = write_results.make_table("rules")
    assert text.splitlines()[2:4] == ["| `unicode` | 0.25 |  |  |", "| `numbers` | 1.50 | 99.0% | 62.5% |"]
    assert "All rules of `default` take 14.0 µs per pair, the rules without `rules` 6.0 µs." in text
    assert "`default` keeps 98.5% and `crawled` 95.0%." in " ".join(text.split())
    assert text.endswith("`make bench-rules`, commit 0123456, 2 cores of A processor (AVX2).")


def test_language_identifiers_that_were_measured_are_in_the_table(results: Path) -> None:
    buckets = [f"kdmt_captions_{bucket}" for bucket in ("1_3", "4_7", "8_15")]
    shares = {f"{name}_{what}": value for name in buckets for what, value in (("rejected", 1.25), ("found", 98.0))}
    times = {"kdmt_microseconds": 12.4, "heliport_microseconds": 1234.0}
    accuracy = {"kdmt_udhr_4_7_accuracy": 97.0, "heliport_udhr_4_7_accuracy": 96.0}
    versions = {"py3langid": "0.4.0", "heliport": "1.0"}
    write_figures(results, "language-id", {"versions": versions}, **shares, **times, **accuracy)
    lines = write_results.make_table("language-id").splitlines()
    assert lines[2:5] == [f"| {words} | 1.25% | 98.00% |" for words in ("1 to 3", "4 to 7", "8 to 15")]
    assert "| py3langid in batches, as kdmt uses it | 12 | 97.0% |" in lines
    assert lines[-3] == "| heliport 1.0 | 1,234 | 96.0% |"
    assert not any("lingua" in line for line in lines)


def test_a_commit_with_changes_is_shown_as_such(results: Path) -> None:
    path = results / "science" / "s4.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0123456789", "0123456789-dirty"), encoding="utf-8")
    assert "commit 0123456-dirty, 2 cores" in write_results.claim_details("S4")


@pytest.mark.usefixtures("results")
def test_a_claim_without_results_has_no_section() -> None:
    assert write_results.claim_section("S1") == ""
    assert write_results.claim_section("S4").startswith(f"### S4: {load_claims()['S4'].title}\n\n**Claim:** A claim.")


def test_a_figure_that_the_results_lack_is_an_error(results: Path) -> None:
    figures = [{"name": "a", "value": 1234.567, "unit": "x"}, {"name": "a_sd", "value": 0.25, "unit": "x"}]
    (results / "bench.json").write_text(json.dumps({"figures": figures}), encoding="utf-8")
    assert result_values.mean("bench.a", 1) == "1,234.6 ± 0.2"
    assert result_values.mean("bench.a_sd") == "0.25"
    assert result_values.ratio("bench.a_sd", "bench.a", 6) == "0.000203"
    with pytest.raises(KeyError, match=r"bench\.json has no figure 'b'"):
        result_values.number("bench.b")


def test_lines_of_a_page_are_wrapped_and_tables_are_not(tmp_path: Path) -> None:
    words = "word " * 40
    (tmp_path / "page.md").write_text(f"# {words}\n\n{words}\n- {words}\n\n| {words} |\n", encoding="utf-8")
    heading, paragraph, table = write_results.render(tmp_path / "page.md").split("\n\n")
    assert heading == f"# {words}"
    assert table == f"| {words} |\n"
    assert [len(line.split()) for line in paragraph.splitlines()] == [24, 16, 24, 17]
    assert [line[:6] for line in paragraph.splitlines()] == ["word w", "word w", "- word", "  word"]


def test_templates_have_no_measured_figure_of_their_own() -> None:
    """Check that each decimal number comes from the results, except versions, settings and goals."""
    allowed = {"0.12.2", "1.12.1", "1.12.42", "2.6.0", "3.8", "0.3", "0.95", "1.0", "0.5", "1.5", "0.2"}
    for path in write_results.TEMPLATES.glob("*.md"):
        text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert set(re.findall(r"\d+(?:\.\d+)+", text)) <= allowed, path.name


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        write_results.fill("<!-- table: nothing -->\n<!-- end of table -->")


def test_the_pages_of_the_documentation_are_those_of_the_results() -> None:
    assert [path.name for path, _ in write_results.outdated_pages()] == [], "run `make results`"
