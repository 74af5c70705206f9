"""Tests of circular dependencies between stages, on stages without settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.flow.circles import check_circles
from kdmt.flow.manifest import Plan
from kdmt.flow.stage import Stage

PLAN = Plan({}, {}, {})


def stage(root: Path, name: str, *upstream: Stage) -> Stage:
    return Stage(name, name, root / name, upstream, lambda: PLAN, lambda _: None)


def record(folder: Path, *inputs: str, complete: bool = True) -> None:
    folder.mkdir(parents=True)
    content = {"settings": {}, "extend": {}, "inputs": dict.fromkeys(inputs, "sha")}
    (folder / ("manifest.json" if complete else "plan.json")).write_text(json.dumps(content))


@pytest.fixture
def stages(tmp_path: Path) -> list[Stage]:
    one = stage(tmp_path, "one")
    two = stage(tmp_path, "two", one)
    return [one, two, stage(tmp_path, "three", two)]


def test_a_path_in_the_folder_of_the_stage_itself_is_refused(stages: list[Stage], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check_circles({"two": [("a.b", str(tmp_path / "two/best"))]}, stages)
    assert str(caught.value) == f"a.b: two would be made from itself: {tmp_path}/two/best lies in its own folder"


def test_a_path_in_a_downstream_stage_is_refused(stages: list[Stage], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^a\.b: one would be .* is made from it \(three <- two <- one\)$"):
        check_circles({"one": [("a.b", str(tmp_path / "three"))]}, stages)


def test_a_path_in_an_upstream_stage_is_allowed(stages: list[Stage], tmp_path: Path) -> None:
    check_circles({"three": [("a.b", str(tmp_path / "one")), ("a.c", str(tmp_path / "elsewhere"))]}, stages)


def test_a_circle_of_two_settings_is_refused(stages: list[Stage], tmp_path: Path) -> None:
    other = stage(tmp_path, "other")
    given = {"one": [("a", str(tmp_path / "other"))], "other": [("b", str(tmp_path / "two"))]}
    with pytest.raises(UserError, match=r"^a: one would be .* \(other <- two <- one\)$"):
        check_circles(given, [*stages, other])


@pytest.mark.parametrize("complete", [True, False])
def test_a_circle_through_the_record_of_another_pipeline_is_refused(
    stages: list[Stage], tmp_path: Path, complete: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    record(elsewhere, f"from {tmp_path / 'three'}", "a file", complete=complete)
    given = {"one": [("a", str(elsewhere / "best"))]}
    check_circles(given, stages)  # inputs with this prefix are not followed here
    with pytest.raises(UserError, match=r"is made from it \(.*elsewhere/best <- three <- two <- one\)$"):
        check_circles(given, stages, path_inputs=("from ",))


def test_the_search_ends_if_records_name_each_other(stages: list[Stage], tmp_path: Path) -> None:
    for name, other in (("x", "y"), ("y", "x")):
        record(tmp_path / name, f"from {tmp_path / other}")
    check_circles({"one": [("a", str(tmp_path / "x"))]}, stages, path_inputs=("from ",))
