"""Tests of schedules against values computed by hand."""

from __future__ import annotations

import pytest

from kdmt.objectives.annealing import piecewise_linear


@pytest.mark.parametrize(
    ("update", "value"), [(0, 0.5), (10, 0.5), (15, 0.75), (20, 1.0), (60, 0.5), (100, 0.0), (1000, 0.0)]
)
def test_values_are_interpolated_linearly_and_constant_outside(update: int, value: float) -> None:
    assert piecewise_linear(update, [(10, 0.5), (20, 1.0), (100, 0.0)]) == pytest.approx(value)


def test_schedule_of_one_point_is_constant() -> None:
    assert [piecewise_linear(update, [(5, 0.3)]) for update in (0, 5, 9)] == [0.3, 0.3, 0.3]
