"""Tracking of stages: which trackers a pipeline has, and the figures of stages that are not trainings.

A training logs its metrics while it runs. Of every other stage the facts of its manifest are logged when it is made,
and of the score stage all scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kdmt.choices import TrackerName
from kdmt.config import Pipeline, setting_path
from kdmt.files import read_optional_json
from kdmt.flow.stage import Making, Stage
from kdmt.score.score_files import ReportFiles, read_scores
from kdmt.score.systems import translations_name
from kdmt.stages.workspace import Workspace
from kdmt.tracking.recorder import Recorder
from kdmt.tracking.trackers import TrackedRun, check_packages

_SHARED = "tracking"  # folder of files of trackers, in the folder of the pipeline
_SPEEDS = ("sentences_per_second_batch1", "sentences_per_second_max")


def check_trackers(config: Pipeline) -> None:
    """Check that the packages of all trackers are installed, before anything is made.

    Raises:
        UserError: if one is not; the message has the YAML path.
    """
    check_packages(config.tracking, setting="tracking")
    trainings = [(path, each.train) for path, each in config.teacher_trainings()]
    trainings += [(path, each.train) for path, each in config.trainings()]
    for path, train in trainings:
        if train.tensorboard:
            check_packages(["tensorboard"], setting=setting_path(path, "train.tensorboard"))


def open_recorder(
    workspace: Workspace,
    *,
    name: str,
    folder: Path,
    settings: Mapping[str, object],
    first_step: int = 0,
    tensorboard: bool = False,
) -> Recorder | None:
    """Return a recorder for a run, None if there is no tracker.

    Args:
        name: name of the training or the stage.
        folder: folder of the stage.
        settings: settings to show with the run, by dotted path.
        first_step: first step that will be logged.
        tensorboard: whether TensorBoard is a tracker although `tracking` does not name it.
    """
    names: list[TrackerName] = list(workspace.config.tracking)
    if tensorboard and "tensorboard" not in names:
        names.append("tensorboard")
    if not names or not workspace.ranks.is_first:
        return None
    run = TrackedRun(workspace.config.name, name, folder, workspace.root / _SHARED, settings, first_step)
    return Recorder(names, run, lambda message: workspace.say(f"warning: {message}"))


def tracked(workspace: Workspace, making: Making) -> Making:
    """Return the context in which stages are made, with the figures of those that are not trainings tracked."""
    if not workspace.config.tracking:
        return making

    @contextmanager
    def tracked_stage(stage: Stage) -> Iterator[None]:
        with making(stage):
            yield
        if stage.join is None:  # not a training
            _track(workspace, stage)

    return tracked_stage


def _track(workspace: Workspace, stage: Stage) -> None:
    recorder = open_recorder(workspace, name=stage.name, folder=stage.folder, settings={})
    if recorder is not None:
        recorder.log(0, dict(_figures(workspace, stage)))
        recorder.close()


def _figures(workspace: Workspace, stage: Stage) -> Iterator[tuple[str, object]]:
    """Yield the facts of a stage, and the scores of the score stage."""
    manifest = read_optional_json(stage.folder / "manifest.json") or {}
    yield from flattened(manifest.get("facts"), stage.name.split()[0])
    if stage.folder != workspace.score:
        return
    rows, _ = read_scores(ReportFiles.below(workspace.root).scores)
    for row in rows:
        name = f"score/{translations_name(row)}"
        yield from ((f"{name}/{metric}", score.value) for metric, score in row.scores.items())
        yield from ((f"{name}/{speed}", getattr(row, speed)) for speed in _SPEEDS)


def flattened(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Yield the paths and values of nested mappings; lists are left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flattened(inner, f"{path}/{key}")
    elif not isinstance(value, list):
        yield path, value
