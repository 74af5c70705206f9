"""The teacher and student stages: each trains one model from a data-bin and writes a folder of checkpoints.

`kdmt.stages.training_work` does the work; their inputs are in `kdmt.stages.training_inputs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from kdmt.config import Student, setting_path
from kdmt.flow.manifest import Plan, make_plan
from kdmt.flow.stage import Stage
from kdmt.models.checkpoint_folder import num_updates
from kdmt.objectives.model_checks import learns_from_cache
from kdmt.stages.student_folder import at_work_on, point_to
from kdmt.stages.training_inputs import (
    Job,
    alignment_inputs,
    init_inputs,
    needs_teacher,
    reads_monolingual,
    teaching_inputs,
    training_inputs,
    with_batch_order,
)
from kdmt.stages.workspace import Workspace


def teacher_stage(workspace: Workspace, prepare: Stage, *, alignments: Mapping[str, Stage]) -> Stage:
    """Return the stage that trains the teacher on the raw training data.

    Args:
        alignments: stages that align training sets, by the names of their folders.
    """
    teacher = workspace.config.teacher
    job = Job(
        name="teacher",
        folder=workspace.teacher,
        model=teacher.model,
        train=teacher.train,
        seed=teacher.seed,
        data=("raw",),
        path="teacher",
        augment=teacher.augment,
    )

    def plan() -> Plan:
        inputs = training_inputs(workspace, job.data) | init_inputs(job) | alignment_inputs(workspace, job.alignments)
        return make_plan({"teacher": teacher}, {}, inputs)

    return Stage(
        name="teacher",
        command="kdmt teacher",
        folder=job.folder,
        upstream=(prepare, *(alignments[each.folder_name] for each in job.alignments)),
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
    alignments: Mapping[str, Stage],
) -> dict[int, tuple[Stage, ...]]:
    """Return the stages that train one student, for each of its seeds.

    There is one, or one for each of the student's `stages` in their order; the model of the last one is the student.

    Args:
        text: stages that write training sets, by name.
        knowledge: stages that fill caches, by name of the training set.
        alignments: stages that align training sets, by the names of their folders.
    """

    def upstream(student: Student) -> tuple[Stage, ...]:
        found = [prepare]
        if needs_teacher(student):
            found.append(teacher)
        found += [text[data] for data in student.data_names if data != "raw"]
        if learns_from_cache(student):
            found += [knowledge[data] for data in student.data_names]
        return tuple(found)

    stages: dict[int, tuple[Stage, ...]] = {}
    for seed in workspace.config.students[name].seeds:
        made: list[Stage] = []
        for job in _jobs(workspace, name, seed):
            assert job.student is not None
            links = [alignments[each.folder_name] for each in job.alignments]
            before = (*upstream(job.student), *links, *made[-1:])
            made.append(_student_stage(workspace, name, job, job.student, before))
        if workspace.config.students[name].stages is not None:
            made[-1] = _as_last(made[-1])
        stages[seed] = tuple(made)
    return stages


def _jobs(workspace: Workspace, name: str, seed: int) -> Iterator[Job]:
    """Yield the runs of one student with one seed, in their order."""
    in_stages = workspace.config.students[name].stages is not None
    before: Path | None = None
    for number, (path, student) in enumerate(workspace.config.trainings_of(name), start=1):
        job = Job(
            name=f"student {name} seed {seed}" + (f" stage {number}" if in_stages else ""),
            folder=workspace.student(name, seed, number if in_stages else None),
            model=student.model,
            train=student.train,
            seed=seed,
            data=student.data_names,
            path=path,
            student=student,
            augment=student.augment,
            before=before,
            number=number,
            shares=student.shares,
        )
        yield job
        before = job.folder


def _student_stage(workspace: Workspace, name: str, job: Job, student: Student, upstream: tuple[Stage, ...]) -> Stage:
    def plan() -> Plan:
        inputs = training_inputs(workspace, job.data, more=("monolingual",) if reads_monolingual(student) else ())
        inputs |= init_inputs(job)
        inputs |= teaching_inputs(workspace, student) | alignment_inputs(workspace, job.alignments)
        own = f"students.{name}"
        made = _without(
            make_plan({own: student}, {"seed": job.seed}, inputs),
            # other seeds have other folders, and of other stages only the checkpoint matters, which is an input
            [f"{own}.{key}" for key in ("seeds", "stages", "begin_from")],
        )
        names = [key for key in (*made.settings, *made.extend) if key.startswith(f"{own}.")]
        paths = {key: setting_path(job.path, key.removeprefix(f"{own}.")) for key in names}
        return with_batch_order(replace(made, paths=paths), job)

    in_stages = job.folder != workspace.student(name, job.seed)
    return Stage(
        name=job.name,
        command=f"kdmt student --student {name}",
        folder=job.folder,
        upstream=upstream,
        plan=plan,
        extent=num_updates,
        make=partial(_train_in_stage if in_stages else _train, workspace, job),
        join=partial(_train, workspace, job, None),
    )


def _without(plan: Plan, names: Sequence[str]) -> Plan:
    """Return a plan without some settings."""
    settings, extend = (
        {name: value for name, value in values.items() if name not in names} for values in (plan.settings, plan.extend)
    )
    return replace(plan, settings=settings, extend=extend)


def _as_last(stage: Stage) -> Stage:
    """Return the last stage of a student, in whose place the folder of the student is read."""

    def make(plan: Plan) -> None:
        stage.make(plan)
        point_to(stage.folder)

    # when it is up to date as well: the student may have had another number of stages
    return replace(stage, make=make, show=partial(point_to, stage.folder))


def _train_in_stage(workspace: Workspace, job: Job, plan: Plan) -> None:
    with at_work_on(job.folder, plan, workspace.say):
        _train(workspace, job, plan)


def _train(workspace: Workspace, job: Job, plan: Plan | None) -> None:
    """Train one model; `plan` is None on ranks that take part but do not write files."""
    from kdmt.stages.training_work import train  # loads PyTorch

    train(workspace, job, plan)
