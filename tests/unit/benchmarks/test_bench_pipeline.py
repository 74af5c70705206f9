"""Figures and curves that the benchmark of a pipeline reads from a run."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import stdev

import bench_pipeline
import pytest


def test_the_validation_curve_has_the_bleu_of_each_validation(tmp_path: Path) -> None:
    records = [
        {"kind": "train", "update": 50, "seconds": 1.0},
        {"kind": "valid", "update": 100, "loss": 3.0, "bleu": 12.5},
        {"kind": "valid", "update": 200, "loss": 2.5},  # a validation without translations
        {"kind": "valid", "update": 300, "loss": 2.0, "bleu": 30.0},
    ]
    folder = bench_pipeline.folder_of(tmp_path, "small", 2)
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    assert bench_pipeline.validation_curve(folder) == {100: 12.5, 300: 30.0}
    assert folder == tmp_path / "students" / "small" / "seed_2"
    assert bench_pipeline.folder_of(tmp_path, "teacher", 1) == tmp_path / "teacher"


def test_figures_are_means_and_deviations_over_the_seeds() -> None:
    rows = [{"system": "a", "test_set": "t", "beam": 5, "iterations": None}] * 3
    rows += [{"system": "b", "test_set": "t", "beam": 1, "iterations": 4}]
    found = bench_pipeline.summarise(rows, "bleu", [1.0, 2.0, 6.0, 7.0], "BLEU")
    assert {figure.name: figure.value for figure in found} == {
        "a_t_beam5_bleu": 3.0,
        "a_t_beam5_bleu_sd": pytest.approx(stdev([1.0, 2.0, 6.0])),
        "b_t_iter4_bleu": 7.0,
    }
