"""Paths of checkpoints and runs in the settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdmt.config import Pipeline, PivotTeacher, setting_path
from kdmt.corpus.codec import TEXT_FILE, load_text_processor
from kdmt.distill.direction_checkpoint import require_direction
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import list_checkpoints
from kdmt.stages.cleaning import distinct_rules

RUN_INPUTS = ("init_from ", "teacher ", "evaluator ")  # prefixes of inputs of a training run that are paths


def teachers_of_directions(config: Pipeline) -> Iterator[tuple[str, str, Direction]]:
    """Yield YAML path, path and direction of each checkpoint in `distill.teachers` of several directions."""
    for name, given in config.distill.by_direction.items():
        direction, setting = Direction.parse(name), f"distill.teachers.{name}"
        if isinstance(given, str):
            yield setting, given, direction
        elif isinstance(given, list):
            yield from ((f"{setting}.{number}", path, direction) for number, path in enumerate(given))
        elif isinstance(given, PivotTeacher):
            legs = Direction(direction.source, given.pivot), Direction(given.pivot, direction.target)
            for number, (path, leg) in enumerate(zip(given.teachers, legs, strict=True)):
                if isinstance(path, str):
                    yield f"{setting}.teachers.{number}", path, leg


def check_teachers_of_directions(config: Pipeline) -> None:
    """Check that the checkpoints in `distill.teachers` have their directions, before any stage is made.

    A path without a checkpoint is left out, because a stage may write it.

    Raises:
        UserError: if one does not have its direction; the message has the YAML path.
    """
    for setting, path, direction in teachers_of_directions(config):
        run = Path(path).parent if Path(path).is_file() else Path(path)
        for folder in (run, *list_checkpoints(run)):
            if (folder / TEXT_FILE).is_file():
                require_direction(load_text_processor(folder / TEXT_FILE), direction, f"{setting}: {path}")
                break


def given_checkpoints(config: Pipeline) -> Iterator[tuple[str, str]]:
    """Yield the YAML path and the value of each setting that is the path of a checkpoint or a run."""
    for training, teacher in config.teacher_trainings():
        if teacher.train.init_from is not None:
            yield setting_path(training, "train.init_from"), teacher.train.init_from
    if config.back_translation is not None and isinstance(config.back_translation.checkpoint, str):
        yield "back_translation.checkpoint", config.back_translation.checkpoint
    for number, path in enumerate(config.distill.checkpoints):
        yield f"distill.teachers.{number}", path
    yield from ((setting, path) for setting, path, _ in teachers_of_directions(config))
    if config.distill.reverse is not None:
        opposite = config.distill.reverse.checkpoint
        if isinstance(opposite, str):
            yield "distill.reverse.checkpoint", opposite
        else:
            yield from ((f"distill.reverse.checkpoint.{name}", path) for name, path in opposite.items())
    for rules in distinct_rules(config.prepare):
        if rules.reverse is not None:
            yield "prepare.clean.rules.reverse.checkpoint", rules.reverse.checkpoint
    for training, student in config.trainings():
        if student.train.init_from is not None:
            yield setting_path(training, "train.init_from"), student.train.init_from
        for number, path in enumerate(student.word_kd.teachers if student.word_kd is not None else ()):
            yield f"{training}.word_kd.teachers.{number}", path
        if student.selective is not None and student.selective.evaluator is not None:
            yield f"{training}.selective.evaluator", student.selective.evaluator
