"""Tables of the documentation are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import write_results

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
    for identifier, scores in (("S10", [1.0]), ("S2", [1.0, 2.0, 3.0])):
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
            "machine": {"cores": 2, "cpu": "A processor"},
            "settings": {"claim": claim, "measures": [MEASURE], "scores": {"toy:raw/beam5 bleu": scores}},
        }
        (folder / f"{identifier.lower()}.json").write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(write_results, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("results")
def test_the_scoreboard_has_a_row_for_each_measure_in_the_order_of_the_claims() -> None:
    rows = write_results.scoreboard("").splitlines()[2:]
    assert rows == [
        f"| {name}: A title | beam 5 minus greedy | at least 0.8 BLEU | 1.25 (0.50 to 2.00) | **holds** |"
        for name in ("S2", "S10")
    ]


@pytest.mark.usefixtures("results")
def test_a_claim_has_its_scores_with_deviation_command_and_commit() -> None:
    text = write_results.claim_details("S2")
    assert "| `toy:raw/beam5` | 2.00 ± 1.00 BLEU | 3 |" in text  # sample standard deviation
    assert "`make science CLAIM=S2`, commit 0123456, 2 cores of A processor" in text
    assert "- Set-up: A set-up" in text
    assert "| `toy:raw/beam5` | 1.00 BLEU | 1 |" in write_results.claim_details("S10")


@pytest.mark.usefixtures("results")
def test_filling_a_page_replaces_what_is_between_the_comments_and_nothing_else() -> None:
    page = "before\n<!-- table: scoreboard -->\nprevious\n<!-- end of table -->\nafter\n"
    once = write_results.fill(page)
    assert once.startswith("before\n<!-- table: scoreboard -->\n\n| claim |")
    assert once.endswith("\n\n<!-- end of table -->\nafter\n")
    assert "previous" not in once
    assert write_results.fill(once) == once


def test_a_commit_with_changes_is_shown_as_such(results: Path) -> None:
    path = results / "science" / "s2.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0123456789", "0123456789-dirty"), encoding="utf-8")
    assert "commit 0123456-dirty, 2 cores" in write_results.claim_details("S2")


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        write_results.fill("<!-- table: nothing -->\n<!-- end of table -->")


def test_the_tables_of_all_pages_are_those_of_the_results() -> None:
    for path in (path for pattern in write_results.PAGES for path in write_results.REPOSITORY.glob(pattern)):
        page = path.read_text(encoding="utf-8")
        assert write_results.fill(page) == page, f"{path.name}: run `make results`"
