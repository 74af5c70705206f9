"""`kdmt status`: show the state of every stage of a pipeline. Nothing is written, created or locked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdmt.errors import UserError
from kdmt.flow.stage import Stage
from kdmt.stages.pipeline import build_stages
from kdmt.stages.workspace import Workspace

StageState = Literal["up to date", "out of date", "incomplete", "not made"]

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_AGES = (("day", 86_400), ("hour", 3_600), ("minute", 60))


@dataclass(frozen=True)
class StageStatus:
    """The state of one stage.

    Attributes:
        name: name of the stage, such as `teacher` or `student small seed 1`.
        state: `up to date`; `out of date`, if a run would make it again or extend it; `incomplete`, if it was started
            and not finished, or an output is missing or damaged; `not made`.
        reasons: reasons why it is not up to date; empty if it is.
        folder: output folder of the stage.
        size_bytes: size of the folder's files, 0 if there is no folder.
        age_seconds: time since the newest file was written, None if there is no file.
    """

    name: str
    state: StageState
    reasons: tuple[str, ...]
    folder: Path
    size_bytes: int
    age_seconds: float | None


def pipeline_status(workspace: Workspace) -> list[StageStatus]:
    """Return the state of every stage of a pipeline, in the order in which they run.

    A stage that depends on a stage which is not up to date is not up to date either.

    Raises:
        UserError: if the stages cannot be built from the settings.
    """
    now = time.time()
    found: dict[str, StageStatus] = {}
    for stage in build_stages(workspace).all():
        waits_for = [needed.name for needed in stage.upstream if found[needed.name].state != "up to date"]
        state, reasons = _state(stage, waits_for)
        size, newest = _measure(stage.folder)
        age = None if newest is None else max(0.0, now - newest)
        found[stage.name] = StageStatus(stage.name, state, tuple(reasons), stage.folder, size, age)
    return list(found.values())


def _state(stage: Stage, waits_for: Sequence[str]) -> tuple[StageState, list[str]]:
    is_begun = any((stage.folder / name).is_file() for name in ("manifest.json", "plan.json"))
    if waits_for:
        state: StageState = "out of date" if is_begun else "not made"
        return state, [f"{name} is not up to date" for name in waits_for]
    try:
        status = stage.status()
    except (UserError, OSError) as error:  # such as a missing corpus
        return "out of date" if is_begun else "not made", [str(error)]
    states: dict[str, StageState] = {
        "fresh": "up to date",
        "new": "not made",
        "unfinished": "incomplete",
        "extend": "out of date",
        "stale": "out of date",
    }
    return states[status.state], list(status.reasons)


def _measure(folder: Path) -> tuple[int, float | None]:
    """Return the size of a folder's files in bytes, and the time at which the newest file was written."""
    size, newest = 0, None
    for status in _files(folder):
        size += status.st_size
        newest = status.st_mtime if newest is None else max(newest, status.st_mtime)
    return size, newest


def _files(folder: Path) -> Iterator[os.stat_result]:
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                yield (Path(parent) / name).lstat()
            except FileNotFoundError:  # a running stage may remove files at any time
                continue


def status_lines(statuses: Sequence[StageStatus]) -> list[str]:
    """Return a table of the stages for the terminal, one line for each."""
    rows: list[tuple[str, ...]] = [("stage", "state", "size", "age", "reason")]
    rows += [
        (each.name, each.state, _size(each.size_bytes), _age(each.age_seconds), "; ".join(each.reasons))
        for each in statuses
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{name:<{widths[0]}}  {state:<{widths[1]}}  {size:>{widths[2]}}  {age:>{widths[3]}}  {reason}".rstrip()
        for name, state, size, age, reason in rows
    ]


def status_json(workspace: Workspace, statuses: Sequence[StageStatus]) -> str:
    """Return the state of a pipeline as JSON."""
    record = {
        "pipeline": workspace.config.name,
        "folder": str(workspace.root),
        "stages": [
            {
                "name": each.name,
                "state": each.state,
                "reasons": list(each.reasons),
                "folder": str(each.folder),
                "size_bytes": each.size_bytes,
                "age_seconds": each.age_seconds,
            }
            for each in statuses
        ],
    }
    return json.dumps(record, indent=1, ensure_ascii=False)


def _size(size: int) -> str:
    if not size:
        return "-"
    for unit, bytes_of in _UNITS:
        if size >= bytes_of:
            return f"{size / bytes_of:.1f} {unit}"
    return f"{size} B"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, length in _AGES:
        if (count := int(seconds // length)) > 0:
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return "under a minute"
