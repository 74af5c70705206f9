"""Tests of the settings of external scorers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from kdmt.config import Scorer
from kdmt.config.flattening import flatten_settings


def test_what_does_not_change_scores_is_an_execution_setting() -> None:
    settings = Scorer(command=["x"])
    assert set(flatten_settings(settings, "execution")) == {
        *("batch_size", "timeout", "restarts", "environment", "human_agreement"),
    }


def test_a_range_is_given_as_a_list() -> None:
    assert Scorer.model_validate({"command": ["x"], "range": [0, 25]}).range == (0.0, 25.0)
    assert Scorer.model_validate({"command": ["x"], "range": [None, 1]}).range == (None, 1.0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"range": [1, 1]}, "'range': 1 is not less than 1"),
        ({"range": [0, 1, 2]}, "range"),
        ({"range": [0, float("nan")]}, "range"),
        ({"command": []}, "command"),
        ({"command": ["x", "--model={model}"]}, "'command' has {model}, and 'model' is null"),
        ({"direction": "up"}, "direction"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as failed:
        Scorer.model_validate({"command": ["x"], **values})
    assert expected in str(failed.value)
