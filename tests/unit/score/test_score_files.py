"""scores.json and significance.json: written files are read back, also those of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdmt.errors import UserError
from kdmt.score.metrics import MetricScore
from kdmt.score.score_files import (
    Comparison,
    Missing,
    PValue,
    ScoreRow,
    read_comparisons,
    read_scores,
    write_comparisons,
    write_scores,
)

BLEU, CHRF, SECOND, TEST = "nrefs:1|tok:13a", "nrefs:1|nc:6", "nrefs:1|tok:none", "nrefs:1|bs:1000|seed:12345"
# as version 0.1.0 wrote them
OLD_ROW = {
    "system": "teacher",
    "test_set": "test_2016_flickr",
    "seed": 1,
    "engine": "pytorch",
    "beam": 5,
    "compute_type": "float32",
    "threads": 2,
    "bleu": 41.02,
    "chrf": 60.5,
    "bleu_signature": BLEU,
    "chrf_signature": CHRF,
    "parameters": 2_629_632,
    "sentences_per_second_batch1": 12.34,
    "sentences_per_second_max": 456.78,
    "checkpoint_sha256": "0" * 64,
    "bleu_second": None,
    "bleu_second_signature": None,
    "iterations": None,
    "steps": None,
}
OLD_COMPARISON = {
    "test_set": "test_2016_flickr",
    "system": "distilled",
    "seed": 1,
    "engine": "pytorch",
    "beam": 5,
    "compute_type": "float32",
    "baseline": "raw",
    "bleu_p_value": 0.004,
    "chrf_p_value": 0.5,
    "bleu_signature": TEST,
    "chrf_signature": TEST,
    "iterations": None,
}
ROW = ScoreRow(
    system="teacher",
    test_set="test_2016_flickr",
    seed=1,
    engine="pytorch",
    beam=5,
    compute_type="float32",
    threads=2,
    scores={"bleu": MetricScore(41.02, BLEU), "chrf": MetricScore(60.5, CHRF)},
    parameters=2_629_632,
    sentences_per_second_batch1=12.34,
    sentences_per_second_max=456.78,
    checkpoint_sha256="0" * 64,
)
COMPARISON = Comparison(
    test_set="test_2016_flickr",
    system="distilled",
    seed=1,
    engine="pytorch",
    beam=5,
    compute_type="float32",
    baseline="raw",
    p_values={"bleu": PValue(0.004, TEST), "chrf": PValue(0.5, TEST)},
)


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_key_of_an_earlier_version_is_still_written(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.json", [ROW])
    write_comparisons(tmp_path / "significance.json", [COMPARISON])
    (row,), (comparison,) = load(tmp_path / "scores.json"), load(tmp_path / "significance.json")
    assert {key: row[key] for key in OLD_ROW} == OLD_ROW
    assert {key: comparison[key] for key in OLD_COMPARISON} == OLD_COMPARISON


def test_scores_are_a_mapping_with_signature_direction_and_range(tmp_path: Path) -> None:
    ter = MetricScore(48.5, "nrefs:1|tok:tercom", higher_is_better=False, range=(0.0, None))
    write_scores(tmp_path / "scores.json", [replace(ROW, scores={**ROW.scores, "ter": ter})])
    (row,) = load(tmp_path / "scores.json")
    bleu = {"value": 41.02, "signature": BLEU, "higher_is_better": True, "range": [0.0, 100.0]}
    errors = {"value": 48.5, "signature": "nrefs:1|tok:tercom", "higher_is_better": False, "range": [0.0, None]}
    assert (row["scores"]["bleu"], row["scores"]["ter"]) == (bleu, errors)
    assert row["ter"] == 48.5
    assert read_scores(tmp_path / "scores.json")[0][0].scores["ter"] == ter


def test_written_files_are_read_back(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, system="Sch\u00fcler", second_scores={"bleu": MetricScore(40.0, SECOND)}, iterations=4)]
    missing = [Missing("raw", 4), Missing("deep", 1), Missing("Sch\u00fcler", 1, "no such model", "onnx")]
    write_scores(tmp_path / "scores.json", rows, missing)
    assert read_scores(tmp_path / "scores.json") == (rows, missing)
    write_comparisons(tmp_path / "significance.json", [COMPARISON])
    assert read_comparisons(tmp_path / "significance.json") == [COMPARISON]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.json", "significance.json"]


def test_files_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    second = {"bleu_second": 42.5, "bleu_second_signature": SECOND}
    entries = [OLD_ROW, OLD_ROW | second, {"system": "new", "seed": 1, "missing": "never trained"}]
    (tmp_path / "scores.json").write_text(json.dumps(entries), encoding="utf-8")
    expected = [ROW, replace(ROW, second_scores={"bleu": MetricScore(42.5, SECOND)})]
    assert read_scores(tmp_path / "scores.json") == (expected, [Missing("new", 1)])
    (tmp_path / "significance.json").write_text(json.dumps([OLD_COMPARISON]), encoding="utf-8")
    assert read_comparisons(tmp_path / "significance.json") == [COMPARISON]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "not a list"),
        ([1], "should be an object"),
        ([{**OLD_ROW, "bleu": "41"}], "value"),
        ([{**OLD_ROW, "bleu_signature": None}], "signature"),
        ([{key: value for key, value in OLD_ROW.items() if key != "beam"}], "beam"),
    ],
)
def test_a_file_with_other_content_is_refused(tmp_path: Path, content: Any, problem: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_scores(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert problem in str(refused.value)


def test_a_row_that_cannot_be_serialised_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_scores(path, [ROW])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_scores(path, [replace(ROW, steps=float("nan"))])
    assert path.read_bytes() == before
