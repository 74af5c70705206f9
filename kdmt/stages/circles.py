"""Checkpoints that settings name by path, and whether a stage would be made from itself through them.

Such a stage is out of date as soon as it is complete: its own result is what it was made from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kdmt.config import Pipeline
from kdmt.errors import UserError
from kdmt.files import read_optional_json
from kdmt.flow.stage import Stage

_OF_RUNS = ("init_from ", "teacher ")  # begin the inputs of a training run that are paths


def given_checkpoints(config: Pipeline) -> Iterator[tuple[str, str]]:
    """YAML path and value of each setting that names a checkpoint or a run."""
    if config.teacher.train.init_from is not None:
        yield "teacher.train.init_from", config.teacher.train.init_from
    for number, path in enumerate(config.distill.checkpoints):
        yield f"distill.teachers.{number}", path
    if config.distill.reverse is not None:
        yield "distill.reverse.checkpoint", config.distill.reverse.checkpoint
    for name, student in config.students.items():
        if student.train.init_from is not None:
            yield f"students.{name}.train.init_from", student.train.init_from
        for number, path in enumerate(student.word_kd.teachers if student.word_kd is not None else ()):
            yield f"students.{name}.word_kd.teachers.{number}", path


def check_circles(given: Mapping[str, Iterable[tuple[str, str]]], stages: Iterable[Stage]) -> None:
    """Refuse settings by which a stage would be made from itself.

    Args:
        given: for each stage by name the settings that name checkpoints, with their values.
        stages: all stages of the pipeline.

    Raises:
        UserError: with the setting, the path, and the way from it back to the stage.
    """
    all_stages = list(stages)
    for stage in all_stages:
        for setting, path in given.get(stage.name, ()):
            way = _way_to(stage, Path(path), given, all_stages, set())
            if way is not None:
                way = list(dict.fromkeys(way))
                through = f" ({' <- '.join(way)})" if len(way) > 1 else ""
                what = "lies in its own folder" if len(way) == 1 else "is made from it"
                raise UserError(f"{setting}: {stage.name} would be made from itself: {path} {what}{through}")


def _way_to(
    wanted: Stage,
    path: Path,
    given: Mapping[str, Iterable[tuple[str, str]]],
    stages: list[Stage],
    seen: set[str],
) -> list[str] | None:
    """The stages and runs on the way from what made a checkpoint back to a stage, None if there is no way."""
    real = os.path.realpath(path)
    if real in seen:
        return None
    seen.add(real)
    owner = next((stage for stage in stages if Path(real).is_relative_to(os.path.realpath(stage.folder))), None)
    if owner is wanted:
        return [owner.name]
    if owner is None:
        name, before = str(path), [Path(each) for each in _recorded_paths(Path(real))]
    else:
        name = owner.name
        before = [stage.folder for stage in owner.upstream] + [Path(each) for _, each in given.get(owner.name, ())]
    ways = (_way_to(wanted, each, given, stages, seen) for each in before)
    return next(([name, *way] for way in ways if way is not None), None)


def _recorded_paths(path: Path) -> list[str]:
    """What the run that a checkpoint lies in was initialised from and taught by, as its own record says."""
    for folder in (path, path.parent):
        for name in ("manifest.json", "plan.json"):
            recorded = read_optional_json(folder / name)
            if recorded is not None:
                inputs = recorded.get("inputs") or {}
                return [key.removeprefix(start) for key in inputs for start in _OF_RUNS if key.startswith(start)]
    return []
