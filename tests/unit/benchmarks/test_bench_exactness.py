"""Kinds of differences and results of `make bench-exactness`, with scores made up here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_exactness
import numpy as np
import pytest
from bench_exactness import COMPARISONS, LIMIT, NAT_COMPARISONS, Comparison, Ours, Outcome, earlier_results, figures_of
from figures import Figure, describe_commit


class Scores:
    """A scoring engine that returns given log-probabilities."""

    max_source_positions = max_target_positions = 1024

    def __init__(self, *log_probs: list[float]) -> None:
        self.log_probs = [np.array(each) for each in log_probs]

    def decode(self, *_: Any, **__: Any) -> Any:
        raise AssertionError

    def score_pairs(self, sources: Any, targets: Any, **_: Any) -> list[np.ndarray]:
        assert len(sources) == len(targets) == 2
        return self.log_probs


def ours(beam: int, *log_probs: list[float]) -> Ours:
    """Return a student whose words are its tokens, followed by 2."""
    codec = SimpleNamespace(
        encode_target=lambda lines: [np.array([*map(int, line.split()), 2]) for line in lines],
        encode_raw_source=lambda lines: [np.array([5, 2]) for _ in lines],
    )
    return Ours(Scores(*log_probs), codec, beam)  # type: ignore[arg-type]


@pytest.mark.parametrize(("gap", "kind"), [(0.00005, "ties"), (-0.00005, "ties"), (0.001, "others")])
def test_greedy_translations_tie_where_their_first_differing_tokens_do(gap: float, kind: str) -> None:
    student = ours(1, [-0.1, -1.0, -0.2], [-0.1, -1.0 + gap, -5.0, -5.0])
    assert student.difference("source", "7 8", "7 9 9") == kind


@pytest.mark.parametrize(("last", "kind"), [(-0.80016, "ties"), (-0.8005, "others")])
def test_translations_of_a_beam_tie_where_their_scores_do(last: float, kind: str) -> None:
    """The score is the mean: -0.4 for the first, (-0.8 + last) / 4 for the other one."""
    student = ours(4, [-0.2, -0.6], [-0.1, -0.5, -0.2, last])
    assert student.difference("source", "7", "9 9 9") == kind


def test_translations_at_the_maximum_length_are_no_ties() -> None:
    long = " ".join(["7"] * LIMIT)
    assert ours(1, [-1.0], [-1.0]).difference("source", "7", long) == "limits"


def test_figures_count_each_kind_of_difference() -> None:
    outcome = Outcome(["a"] * 8, ["a"] * 8, {1: "ties", 4: "limits"})
    found = {each.name: each.value for each in figures_of(Comparison("marian", "ssru", 4), outcome, ["a"] * 8)}
    name = "exactness_marian_ssru_beam4"
    assert found == {f"{name}_same": 75.0, f"{name}_ties": 1, f"{name}_limits": 1, f"{name}_others": 0}


def test_results_of_comparisons_that_are_left_out_remain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_exactness, "RESULTS", tmp_path)
    chosen = [Comparison("marian", "ssru", 4)]
    assert earlier_results("exactness", chosen) == ([], {})
    kept = {"name": "exactness_onnx_ssru_beam4_same", "value": 100.0, "unit": "%"}
    replaced = {"name": "exactness_marian_ssru_beam4_same", "value": 99.0, "unit": "%"}
    differences = {"marian_ssru_beam4": {"3": "ties"}, "onnx_ssru_beam4": {}}
    content = {"figures": [kept, replaced], "settings": {"differences": differences}, "commit": describe_commit()}
    (tmp_path / "exactness.json").write_text(json.dumps(content))
    assert earlier_results("exactness", chosen) == ([Figure(**kept)], {"onnx_ssru_beam4": {}})
    (tmp_path / "exactness.json").write_text(json.dumps(content | {"commit": "another"}))
    assert earlier_results("exactness", chosen) == ([], {})


def test_comparisons_have_names_of_their_own() -> None:
    for comparisons in (COMPARISONS, NAT_COMPARISONS):
        assert len({each.name for each in comparisons}) == len(comparisons)
