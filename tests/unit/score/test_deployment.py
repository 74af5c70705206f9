"""Losses of exported students, and how reports show what was measured in engines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kdmt.score.deployment import Deployment, EngineMeasurement, losses
from kdmt.score.metrics import MetricScore
from kdmt.score.report import render_table, score_notes
from kdmt.score.report_notes import NO_NOTES
from kdmt.score.report_page.page import COSTS
from kdmt.score.score_files import ScoreRow, read_scores, write_scores
from kdmt.score.systems import translations_name

COST = EngineMeasurement(0.25, 9.5, 4.5, 4.25, 7.75, 120.0, 1500.0, 50_000_000, 90_000_000, 0.125)


def score(value: float, *, higher_is_better: bool = True) -> MetricScore:
    return MetricScore(value, "signature", higher_is_better, (0.0, 100.0))


def row(engine: str = "bergamot", bleu: float = 29.0, lost: float = 1.0) -> ScoreRow:
    return ScoreRow(
        system="tiny",
        test_set="test",
        seed=1,
        engine=engine,
        beam=1,
        compute_type="int8",
        threads=1,
        scores={"bleu": score(bleu)},
        parameters=1000,
        sentences_per_second_batch1=10.0,
        sentences_per_second_max=120.0,
        checkpoint_sha256="0" * 64,
        deployment=Deployment(engine, 17_500_000, COST, {"bleu": lost}),
    )


def test_a_loss_is_positive_where_the_exported_model_is_worse() -> None:
    own = {"bleu": score(30.0), "ter": score(50.0, higher_is_better=False), "chrf": score(60.0)}
    exported = {"bleu": score(29.25), "ter": score(51.0, higher_is_better=False)}
    assert losses(own, exported) == {"bleu": 0.75, "ter": 1.0}


@pytest.mark.parametrize(
    ("lost", "warned"), [({"bleu": 0.5, "chrf": 0.3}, 0), ({"bleu": 0.51}, 1), ({"bleu": 0.6, "chrf": 0.31}, 2)]
)
def test_losses_above_the_usual_ones_are_warned_of(lost: dict[str, float], warned: int) -> None:
    assert len(list(Deployment("bergamot", 1, COST, lost).large_losses())) == warned


def test_measurements_are_written_and_read(tmp_path: Path) -> None:
    rows = [row(), replace(row("pytorch"), deployment=None)]
    write_scores(tmp_path / "scores.json", rows)
    assert read_scores(tmp_path / "scores.json") == (rows, [])
    written = json.loads((tmp_path / "scores.json").read_text())
    assert ["deployment" in each for each in written] == [True, False]


def test_translations_of_an_exported_model_have_names_of_their_own() -> None:
    exported = replace(row(), deployment=Deployment("ctranslate2:int8", 1, COST))
    assert translations_name(exported) == "tiny.seed_1.test.beam1.ctranslate2-int8"
    assert translations_name(row("pytorch")) == "tiny.seed_1.test.beam1"
    assert translations_name(replace(row(), deployment=None)) == "tiny.seed_1.test.beam1"


def test_a_table_shows_what_was_measured() -> None:
    text = render_table([replace(row("pytorch"), deployment=None), row()], width=140)
    table = text[text.index("students in engines") :]
    line = next(line for line in table.splitlines() if line.startswith("tiny"))
    assert line.split()[-9:] == ["17.5", "90", "0.25", "9.5", "4.2", "7.8", "1,500", "0.125", "1.00"]
    assert any(note.startswith("warning: tiny seed 1 on test, bergamot: 1.00 BLEU") for note in notes(row()))
    assert not any("in engines" in note for note in notes(replace(row(), deployment=None)))


def notes(found: ScoreRow) -> list[str]:
    return score_notes([found], [], [], NO_NOTES)


def test_charts_have_size_and_memory_where_they_were_measured() -> None:
    costs = {cost.label: cost.value for cost in COSTS}
    assert (costs["MB on disk"](row()), costs["MB of memory"](row())) == (17.5, 90.0)
    assert costs["MB on disk"](replace(row(), deployment=None)) is None
