"""Tests of records and sections whose values do not come from a pipeline file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from kdmt.config import Decode, checked, read_record
from kdmt.errors import UserError


@dataclass(frozen=True)
class Point:
    x: int
    names: tuple[str, ...] = ()


def test_a_record_is_read_as_it_was_written() -> None:
    assert read_record(Point, {"x": 3, "names": ["a", "b"]}, "file") == Point(3, ("a", "b"))
    assert read_record(list[Point], [{"x": 1}, {"x": 2}], "file") == [Point(1), Point(2)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "file: x: missing"),
        ({"x": "3"}, "file: x: should be a valid integer (it is '3')"),
        ({"x": True}, "file: x: should be a valid integer (it is True)"),
        ({"x": 3, "y": 1}, "file: y: unknown"),
        ([], "file: should be an object (it is [])"),
    ],
)
def test_an_invalid_record_is_refused(values: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_record(Point, values, "file")
    assert str(caught.value).startswith(message)


def test_options_of_a_command_are_checked_like_settings() -> None:
    assert checked(Decode, "translate", beam=3) == Decode(beam=3)
    with pytest.raises(UserError) as caught:
        checked(Decode, "translate", beam=0, lenpen=1000.0)
    message = str(caught.value)
    assert message.startswith("translate: beam: should be greater than or equal to 1 (it is 0)")
    assert "; lenpen: should be at most 100 (it is 1000.0)" in message
