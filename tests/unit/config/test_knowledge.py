"""Tests of settings of the knowledge cache."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdmt.config import Pipeline

Load = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("knowledge.temperatures=[1.0, 2.0, 1.0]", "knowledge: 'temperatures' holds a number twice"),
        ("knowledge.temperatures=[]", "knowledge.temperatures: the list is too short"),
        ("knowledge.temperatures=[0.0]", "knowledge.temperatures.0: should be greater than 0"),
        ("knowledge.value_type=int8", "knowledge.value_type: should be 'float16' or 'float32'"),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


def test_several_temperatures_are_allowed(load: Load) -> None:
    assert load("knowledge.temperatures=[1.0, 2.0]").knowledge.temperatures == [1.0, 2.0]
