"""Tests of latency figures: those of the real SimulEval 1.1.4 (tests/golden/make_simuleval.py), and cases by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdmt.score.lagging import (
    LATENCY_METRICS,
    Timing,
    average_lagging,
    average_proportion,
    differentiable_average_lagging,
    length_adaptive_average_lagging,
    mean_latency,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "simuleval" / "latency.json"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


def timing(sentence: dict[str, Any]) -> Timing:
    return Timing(sentence["delays"], sentence["source"], sentence["reference"])


def test_figures_of_200_sentences_equal_those_of_simuleval(golden: dict[str, Any]) -> None:
    assert golden["simuleval"] == "1.1.4"
    assert len(golden["sentences"]) == 200
    for sentence in golden["sentences"]:
        for name, metric in LATENCY_METRICS.items():
            assert metric(timing(sentence)) == pytest.approx(sentence[name.upper()], rel=1e-12, abs=1e-12)


def test_means_equal_those_of_simuleval(golden: dict[str, Any]) -> None:
    found = mean_latency([timing(sentence) for sentence in golden["sentences"]])
    assert {name.upper(): value for name, value in found.items()} == pytest.approx(golden["means"], rel=1e-12)


def test_golden_sentences_are_of_all_kinds(golden: dict[str, Any]) -> None:
    sentences = golden["sentences"]
    assert any(len(each["delays"]) > each["reference"] for each in sentences), "longer than the reference"
    assert any(len(each["delays"]) < each["reference"] for each in sentences)
    assert any(each["delays"][-1] < each["source"] for each in sentences), "ends before the source"
    assert any(each["delays"][0] == each["source"] for each in sentences), "begins after the source"


@pytest.mark.parametrize("k", [1, 3, 5])
def test_wait_k_of_equal_lengths_lags_by_k_words(k: int) -> None:
    """The policy min(k + t, S) with |Y| = |X| has AL = LAAL = k by construction (Ma et al. 2019, section 3.2)."""
    length = 12
    waiting = Timing([min(k + token, length) for token in range(length)], length, length)
    assert average_lagging(waiting) == pytest.approx(k)
    assert length_adaptive_average_lagging(waiting) == pytest.approx(k)
    assert differentiable_average_lagging(waiting) == pytest.approx(k), "the last words take their time"


def test_translation_after_the_whole_source_has_proportion_1() -> None:
    offline = Timing([7] * 5, 7, 5)
    assert average_proportion(offline) == 1.0
    assert average_lagging(offline) == 7.0


def test_sentences_without_words_do_not_count() -> None:
    counted = Timing([1, 2], 2, 2)
    assert mean_latency([Timing([], 3, 2), counted, Timing([0], 0, 1)]) == mean_latency([counted])
    assert mean_latency([]) == mean_latency([Timing([], 3, 2)]) == {}, "0 would be the best latency"
