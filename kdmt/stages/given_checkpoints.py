"""Paths of checkpoints and runs in the settings."""

from __future__ import annotations

from collections.abc import Iterator

from kdmt.config import Pipeline, PivotTeacher, setting_path
from kdmt.stages.cleaning import distinct_rules

RUN_INPUTS = ("init_from ", "teacher ", "evaluator ")  # prefixes of inputs of a training run that are paths


def given_checkpoints(config: Pipeline) -> Iterator[tuple[str, str]]:
    """Yield the YAML path and the value of each setting that is the path of a checkpoint or a run."""
    for training, teacher in config.teacher_trainings():
        if teacher.train.init_from is not None:
            yield setting_path(training, "train.init_from"), teacher.train.init_from
    if config.back_translation is not None and isinstance(config.back_translation.checkpoint, str):
        yield "back_translation.checkpoint", config.back_translation.checkpoint
    for number, path in enumerate(config.distill.checkpoints):
        yield f"distill.teachers.{number}", path
    for direction, given in config.distill.by_direction.items():
        if isinstance(given, str):
            yield f"distill.teachers.{direction}", given
        for number, path in enumerate(given if isinstance(given, list) else ()):
            yield f"distill.teachers.{direction}.{number}", path
        for number, leg in enumerate(given.teachers if isinstance(given, PivotTeacher) else ()):
            if isinstance(leg, str):
                yield f"distill.teachers.{direction}.teachers.{number}", leg
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
