"""Tests of reranking: each feature against its definition, and the choice against a plain weighted sum."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from kdmt.choices import FeatureName
from kdmt.config import Rerank
from kdmt.distill.mbr import ExpectedUtility
from kdmt.distill.rerank import BACKWARD, FEATURES, Features, by_linear_model
from kdmt.distill.selection import Candidate, Line
from kdmt.errors import UserError
from kdmt.score.metrics import sentence_chrf

LENPEN = 0.6
LINE = Line("ein Hund und eine Katze")
CANDIDATES = [
    Candidate("a dog and a cat", -1.0 / 6**LENPEN, 6, (0.5, -3.0), count=2),
    Candidate("the dog, the cat", -2.0 / 7**LENPEN, 7, (-0.5, -1.0), count=0),
    Candidate("dog", -3.0 / 2**LENPEN, 2, (2.0, -2.0), count=1),
]


def count_letters(lines: Sequence[str]) -> list[float]:
    return [float(len(line)) for line in lines]


def features_of(*names: FeatureName, given: tuple[str, ...] = ()) -> Features:
    return Features(names, given, lenpen=LENPEN, typical_ratio=1.25, language_model=count_letters)


def test_every_name_has_a_feature() -> None:
    assert {*FEATURES, BACKWARD} == set(get_args(FeatureName))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("score", [each.score for each in CANDIDATES]),
        ("log_prob", [-1.0, -2.0, -3.0]),
        ("length", [6, 7, 2]),
        ("ratio", [abs(math.log((size + 10) / (23 * 1.25 + 10))) for size in (15, 16, 3)]),
        ("count", [math.log(3), 0.0, math.log(2)]),
        (
            "mbr",
            [
                sum(sentence_chrf(each.words, other.words).value for other in CANDIDATES) / len(CANDIDATES)
                for each in CANDIDATES
            ],
        ),
        ("language_model", [15, 16, 3]),
    ],
)
def test_feature_equals_its_definition(name: FeatureName, expected: list[float]) -> None:
    candidates = [Candidate(each.words, each.score, each.length, count=each.count) for each in CANDIDATES]
    assert features_of(name)(candidates, LINE)[:, 0].tolist() == pytest.approx(expected)


def test_candidates_of_other_systems_have_the_lowest_score_of_the_teacher() -> None:
    candidates = [*CANDIDATES, Candidate("the dog", math.nan, 3, system=1)]
    own = [(each.score, each.score * each.length**LENPEN) for each in candidates[:3]]
    expected = [*own, (min(score for score, _ in own), min(log_prob for _, log_prob in own))]
    candidates = [replace(each, given=()) for each in candidates]
    found = features_of("score", "log_prob")(candidates, LINE)
    assert found.tolist() == [pytest.approx(row) for row in expected]
    assert features_of("score")(candidates[3:], LINE).tolist() == [[0.0]]


def test_features_of_files_follow_those_that_are_computed() -> None:
    features = features_of("length", given=("other", "right_to_left"))
    assert features.all_names == ("length", "other", "right_to_left")
    assert features(CANDIDATES, LINE).tolist() == [[6, 0.5, -3], [7, -0.5, -1], [2, 2, -2]]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"length": 1.0, "a": 0.0, "b": 0.0}, 1),
        ({"length": 1.0, "a": 4.0, "b": 0.0}, 2),
        ({"length": 0, "a": 0, "b": 0}, 0),
    ],
)
def test_highest_weighted_sum_is_chosen(weights: dict[str, float], expected: int) -> None:
    rule = by_linear_model(features_of("length", given=("a", "b")), weights)
    (choice,) = pickle.loads(pickle.dumps(rule)).choose(CANDIDATES, LINE)
    assert choice.index == expected
    assert rule.columns == ("value", "length", "a", "b")
    own = (CANDIDATES[expected].length, *CANDIDATES[expected].given)
    value = sum(weight * value for weight, value in zip(weights.values(), own, strict=True))
    assert choice.values == (value, *own)


def test_an_infinite_feature_is_refused() -> None:
    candidates = [Candidate("a", -1.0, 2, (-math.inf,)), CANDIDATES[0]]
    with pytest.raises(UserError, match="the feature 'other' of a candidate is not a finite number"):
        features_of(given=("other",))([candidates[0]], LINE)


def test_the_utility_is_computed_for_pruned_candidates_too() -> None:
    settings = Rerank(features=["mbr"])
    made = Features.of(settings, expected=ExpectedUtility(prune=1), lenpen=1.0, typical_ratio=1.0, corpus=Path())
    assert np.isfinite(made([Candidate(each.words, -1.0, 2) for each in CANDIDATES], LINE)).all()
