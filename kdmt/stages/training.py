"""The teacher and student stages: each trains one model from a data-bin and writes a folder of checkpoints.

`kdmt.stages.training_work` does the work; their inputs are in `kdmt.stages.training_inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from kdmt.config import Student
from kdmt.flow.manifest import Plan, make_plan
from kdmt.flow.stage import Stage
from kdmt.models.checkpoint_folder import num_updates
from kdmt.objectives.model_checks import learns_from_cache
from kdmt.stages.training_inputs import (
    Job,
    data_names,
    init_inputs,
    needs_teacher,
    reads_monolingual,
    teaching_inputs,
    training_inputs,
)
from kdmt.stages.workspace import Workspace


def teacher_stage(workspace: Workspace, prepare: Stage) -> Stage:
    """Return the stage that trains the teacher on the raw training data."""
    teacher = workspace.config.teacher
    job = Job(
        name="teacher",
        folder=workspace.teacher,
        model=teacher.model,
        train=teacher.train,
        seed=teacher.seed,
        data=("raw",),
        path="teacher",
    )

    def plan() -> Plan:
        inputs = training_inputs(workspace, job.data) | init_inputs(teacher.train)
        return make_plan({"teacher": teacher}, {}, inputs)

    return Stage(
        name="teacher",
        command="kdmt teacher",
        folder=job.folder,
        upstream=(prepare,),
        plan=plan,
        extent=num_updates,
        make=partial(_train, workspace, job),
        join=partial(_train, workspace, job, None),
    )


def student_stages(
    workspace: Workspace,
    name: str,
    *,
    prepare: Stage,
    teacher: Stage,
    text: Mapping[str, Stage],
    knowledge: Mapping[str, Stage],
) -> dict[int, Stage]:
    """Return the stages that train one student, one for each of its seeds.

    Args:
        text: stages that write training sets, by name.
        knowledge: stages that fill caches, by name of the training set.
    """
    student = workspace.config.students[name]
    upstream = [prepare]
    if needs_teacher(student):
        upstream.append(teacher)
    upstream += [text[data] for data in data_names(student) if data != "raw"]
    if learns_from_cache(student):
        upstream += [knowledge[data] for data in data_names(student)]
    return {seed: _student_stage(workspace, name, student, seed, tuple(upstream)) for seed in student.seeds}


def _student_stage(workspace: Workspace, name: str, student: Student, seed: int, upstream: tuple[Stage, ...]) -> Stage:
    job = Job(
        name=f"student {name} seed {seed}",
        folder=workspace.student(name, seed),
        model=student.model,
        train=student.train,
        seed=seed,
        data=data_names(student),
        path=f"students.{name}",
        student=student,
    )

    def plan() -> Plan:
        inputs = training_inputs(workspace, job.data, more=("monolingual",) if reads_monolingual(student) else ())
        inputs |= init_inputs(student.train)
        inputs |= teaching_inputs(workspace, student)
        made_from = make_plan({f"students.{name}": student}, {"seed": seed}, inputs)
        extend = {key: value for key, value in made_from.extend.items() if not key.endswith(".seeds")}
        return replace(made_from, extend=extend)  # other seeds have other folders

    return Stage(
        name=job.name,
        command=f"kdmt student --student {name}",
        folder=job.folder,
        upstream=upstream,
        plan=plan,
        extent=num_updates,
        make=partial(_train, workspace, job),
        join=partial(_train, workspace, job, None),
    )


def _train(workspace: Workspace, job: Job, plan: Plan | None) -> None:
    """Train one model; `plan` is None on ranks that take part but do not write files."""
    from kdmt.stages.training_work import train  # loads PyTorch

    train(workspace, job, plan)
