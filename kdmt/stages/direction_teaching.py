"""The validation of teachers by direction, for students that are distilled while their teacher is better.

    students/NAME/seed_N/teacher_validation.json    direction -> negative log-likelihood of the teacher, nats per token

The figures are computed when a run begins, and kept, so that a resumed run compares with the same ones.
"""

from __future__ import annotations

import torch

from kdmt.corpus.batching import open_split
from kdmt.errors import UserError
from kdmt.files import read_optional_json, write_json
from kdmt.models.checkpoint import load_model
from kdmt.objectives.objective import Objective, Teachers
from kdmt.stages.training_inputs import Job, teacher_checkpoint
from kdmt.stages.workspace import Workspace
from kdmt.train.data import BinarizedData
from kdmt.train.direction_sampling import PairDirections
from kdmt.train.direction_validation import DirectionValidation
from kdmt.train.run_log import Progress

TEACHER_VALIDATION = "teacher_validation.json"


def direction_validation(workspace: Workspace, valid: BinarizedData) -> DirectionValidation:
    """Return the validation set of a pipeline with the direction of each pair."""
    names = [str(each) for each in workspace.config.trained_directions]
    directions = PairDirections.read([workspace.prepare / "valid.tags"], names)
    return DirectionValidation(valid, valid.batches(), directions)


def measure_teacher(
    workspace: Workspace, job: Job, objective: Objective, *, device: torch.device, progress: Progress
) -> dict[str, float]:
    """Return direction -> negative log-likelihood of the validation targets under the teacher, in nats per token.

    Args:
        objective: objective of the student; without teachers that run with it, the pipeline's teacher is loaded.

    Raises:
        UserError: if the recorded figures of the run are damaged.
    """
    path, ranks = job.folder / TEACHER_VALIDATION, workspace.ranks
    recorded = ranks.share(read_optional_json(path) if ranks.is_first else None)
    names = [str(each) for each in workspace.config.trained_directions]
    if recorded is None:
        valid = BinarizedData(
            open_split(workspace.prepare / "data-bin", "valid", workspace.direction),
            job.train,
            seed=0,
            right_to_left=job.right_to_left,
        )
        recorded = _measure(workspace, job, objective, direction_validation(workspace, valid), device)
        if ranks.is_first:
            write_json(path, recorded)
    if sorted(recorded) != sorted(names) or not all(isinstance(value, float) for value in recorded.values()):
        raise UserError(f"{path}: not the validation figures of the directions {', '.join(names)}")
    figures = ", ".join(f"{name} {recorded[name]:.3f}" for name in names)
    progress.note(f"negative log-likelihood of the teacher on the validation set by direction: {figures}")
    return {name: recorded[name] for name in names}


def _measure(
    workspace: Workspace, job: Job, objective: Objective, validation: DirectionValidation, device: torch.device
) -> dict[str, float]:
    """Return the figures of the teachers of an objective."""
    assert job.student is not None
    assert job.student.word_kd is not None, "only measured for students that are distilled by direction"
    weights = job.student.word_kd.teacher_weights
    own, was_training = objective.teachers, objective.training
    if not len(own.models):  # the student reads a cache
        objective.teachers = Teachers([load_model(teacher_checkpoint(workspace))])
    try:
        objective.eval()
        objective.teachers.to(device)
        return validation.of_teachers(objective, weights=weights, device=device, ranks=workspace.ranks)
    finally:
        objective.teachers = own
        objective.train(was_training)
