"""Tests of averages over directions."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.score.averages import average_rows, averages_text, read_averages, write_averages
from kdmt.score.deployment import Deployment, EngineMeasurement
from kdmt.score.metrics import MetricScore
from kdmt.score.score_files import ScoreRow, read_scores, write_scores

DIRECTIONS = {name: Direction.parse(name) for name in ("en-de", "de-en", "fr-en", "de-fr")}
TESTS = {f"news.{name}": ("news", direction) for name, direction in DIRECTIONS.items()}
BLEU = {"en-de": 20.0, "de-en": 31.0, "fr-en": 40.0, "de-fr": 5.0}


def row(name: str, *, seed: int = 1, off_target: float | None = None, more: float = 0.0) -> ScoreRow:
    score = MetricScore(value=BLEU[name] + more, signature="tok:13a", higher_is_better=True, range=(0.0, 100.0))
    return ScoreRow(
        **{"system": "teacher", "test_set": f"news.{name}", "seed": seed, "engine": "pytorch", "beam": 5},
        **{"compute_type": "float32", "threads": 1, "scores": {"bleu": score}, "parameters": 9},
        **{"sentences_per_second_batch1": 1.0, "sentences_per_second_max": 2.0, "checkpoint_sha256": "0" * 64},
        direction=name,
        off_target=off_target,
    )


def test_means_of_the_groups() -> None:
    rates = {"en-de": 10.0, "de-en": 30.0}
    found = average_rows([row(name, off_target=rates.get(name)) for name in BLEU], TESTS, [DIRECTIONS["de-fr"]])
    assert {(each.group, each.scores["bleu"], each.off_target) for each in found} == {
        ("all", (20.0 + 31.0 + 40.0) / 3, 20.0),
        ("to English", (31.0 + 40.0) / 2, 30.0),
        ("from English", 20.0, 10.0),
        ("zero-shot", 5.0, None),
    }
    assert [each.directions for each in found][1] == ["de-en", "fr-en"]


def test_seeds_are_averaged_in_the_table(tmp_path: Path) -> None:
    rows = [row(name, seed=seed, more=2.0 * seed) for seed in (1, 2) for name in BLEU]
    write_averages(tmp_path / "a.json", average_rows(rows, TESTS, []))
    found = read_averages(tmp_path / "a.json")
    assert len(found) == 6  # all, to and from English with two seeds
    text = averages_text(found, width=100, ascii_only=True)
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("teacher")] == ["27.00", "38.50", "23.00"]


def test_exported_models_have_averages_of_their_own(tmp_path: Path) -> None:
    cost = EngineMeasurement(**dict.fromkeys((each.name for each in fields(EngineMeasurement)), 1.0))
    checkpoint = [row(name) for name in BLEU]
    exported = [
        replace(row(name, more=-2.0), engine="ctranslate2", deployment=Deployment("ctranslate2:int8", 9, cost))
        for name in BLEU
    ]
    measured = [replace(each, deployment=Deployment("pytorch", 9, cost)) for each in checkpoint]
    write_averages(tmp_path / "a.json", average_rows([*measured, *exported], TESTS, []))
    found = [each for each in read_averages(tmp_path / "a.json") if each.group == "to English"]
    assert [(each.engine, each.scores["bleu"]) for each in found] == [
        (None, (31.0 + 40.0) / 2),
        ("ctranslate2:int8", (29.0 + 38.0) / 2),
    ]
    assert "engine" not in json.loads((tmp_path / "a.json").read_text())[0]
    text = averages_text(found, width=100, ascii_only=True)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("teacher")] == [
        "checkpoint",
        "ctranslate2:int8",
    ]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"a\.json: not a list"):
        read_averages(tmp_path / "a.json")


def test_rows_of_one_direction_have_no_direction(tmp_path: Path) -> None:
    path, several = tmp_path / "scores.json", row("en-de", off_target=1.5)
    write_scores(path, [several])
    assert read_scores(path)[0] == [several]
    one = ScoreRow(**{**vars(several), "direction": None, "off_target": None})
    write_scores(path, [one])
    assert {"direction", "off_target"}.isdisjoint(json.loads(path.read_text())[0])
    assert read_scores(path)[0] == [one]
