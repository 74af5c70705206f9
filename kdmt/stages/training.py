"""The teacher and student stages: each trains one model from a data-bin and writes a folder of checkpoints.

`kdmt.stages.training_work` does the work; their inputs are in `kdmt.stages.training_inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from kdmt.config import Student, Teacher, setting_path
from kdmt.flow.manifest import Plan, make_plan
from kdmt.flow.stage import Stage
from kdmt.models.checkpoint_folder import num_updates
from kdmt.objectives.model_checks import learns_from_cache
from kdmt.stages.student_folder import at_work_on, point_to
from kdmt.stages.training_inputs import (
    Job,
    alignment_inputs,
    consolidation_inputs,
    direction_inputs,
    init_inputs,
    monolingual_splits,
    needs_teacher,
    scorer_inputs,
    scorer_sections,
    selective_inputs,
    teaching_inputs,
    training_inputs,
    with_batch_order,
)
from kdmt.stages.workspace import Workspace


def teacher_stages(
    workspace: Workspace, prepare: Stage, *, text: Mapping[str, Stage], alignments: Mapping[str, Stage]
) -> tuple[Stage, ...]:
    """Return the stages that train the teacher.

    There is one, or one for each of the teacher's `stages` in their order; the model of the last one is the teacher.

    Args:
        text: stages that write training sets without the teacher, by name.
        alignments: stages that align training sets, by the names of their folders.
    """
    made: list[Stage] = []
    for job, teacher in _teacher_jobs(workspace):
        sets = [text[name] for name in job.data if name != "raw"]
        links = [alignments[each.folder_name] for each in job.alignments]
        made.append(_teacher_stage(workspace, job, teacher, (prepare, *sets, *links, *made[-1:])))
    if workspace.config.teacher.stages is not None:
        made[-1] = _as_last(made[-1])
    return tuple(made)


def _teacher_jobs(workspace: Workspace) -> Iterator[tuple[Job, Teacher]]:
    """Yield the runs of the teacher, in their order."""
    in_stages = workspace.config.teacher.stages is not None
    before: Path | None = None
    for number, (path, teacher) in enumerate(workspace.config.teacher_trainings(), start=1):
        job = Job(
            name=f"teacher stage {number}" if in_stages else "teacher",
            folder=workspace.teacher / f"stage_{number}" if in_stages else workspace.teacher,
            model=teacher.model,
            train=teacher.train,
            seed=teacher.seed,
            data=teacher.data_names,
            path=path,
            self_supervised=teacher.self_supervised,
            augment=teacher.augment,
            before=before,
            begin_from=teacher.begin_from,
            number=number,
            right_to_left=teacher.right_to_left,
            shares=teacher.shares,
        )
        yield job, teacher
        before = job.folder


def _teacher_stage(workspace: Workspace, job: Job, teacher: Teacher, upstream: tuple[Stage, ...]) -> Stage:
    def plan() -> Plan:
        more = monolingual_splits(workspace, job.self_supervised)
        inputs = training_inputs(workspace, job.data, more=more)
        inputs |= init_inputs(job) | alignment_inputs(workspace, job.alignments)
        inputs |= scorer_inputs(workspace, job) | direction_inputs(workspace, job) | consolidation_inputs(job)
        made = make_plan({"teacher": teacher, **scorer_sections(workspace, job)}, {}, inputs)
        # of other stages only the checkpoint matters, which is an input
        return _of_training(made, job, "teacher", ("stages", "begin_from"))

    return _training_stage(workspace, job, workspace.teacher, "kdmt teacher", upstream, plan)


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
            self_supervised=student.self_supervised,
            augment=student.augment,
            before=before,
            begin_from=student.begin_from,
            number=number,
            shares=student.shares,
        )
        yield job
        before = job.folder


def _student_stage(workspace: Workspace, name: str, job: Job, student: Student, upstream: tuple[Stage, ...]) -> Stage:
    def plan() -> Plan:
        more = monolingual_splits(workspace, job.self_supervised)
        inputs = training_inputs(workspace, job.data, more=more)
        inputs |= init_inputs(job)
        inputs |= teaching_inputs(workspace, student) | alignment_inputs(workspace, job.alignments)
        inputs |= scorer_inputs(workspace, job) | consolidation_inputs(job)
        inputs |= selective_inputs(workspace, student) | direction_inputs(workspace, job)
        own = f"students.{name}"
        made = make_plan({own: student, **scorer_sections(workspace, job)}, {"seed": job.seed}, inputs)
        # other seeds have other folders, and of other stages only the checkpoint matters, which is an input
        return _of_training(made, job, own, ("seeds", "stages", "begin_from"))

    folder, command = workspace.student(name, job.seed), f"kdmt student --student {name}"
    return _training_stage(workspace, job, folder, command, upstream, plan)


def _training_stage(
    workspace: Workspace,
    job: Job,
    folder: Path,
    command: str,
    upstream: tuple[Stage, ...],
    plan: Callable[[], Plan],
) -> Stage:
    """Return the stage of one run.

    Args:
        folder: folder of the teacher or student, which is that of the run unless it is trained in stages.
    """
    return Stage(
        name=job.name,
        command=command,
        folder=job.folder,
        upstream=upstream,
        plan=plan,
        extent=num_updates,
        make=partial(_train if job.folder == folder else _train_in_stage, workspace, job),
        join=partial(_train, workspace, job, None),
    )


def _of_training(made: Plan, job: Job, own: str, left_out: Sequence[str]) -> Plan:
    """Return the plan of a run without some settings of its section, and with the YAML paths of the others.

    Args:
        own: name of the section in the plan.
        left_out: names of settings in the section.
    """
    made = _without(made, [f"{own}.{name}" for name in left_out])
    names = [key for key in (*made.settings, *made.extend) if key.startswith(f"{own}.")]
    paths = {key: setting_path(job.path, key.removeprefix(f"{own}.")) for key in names}
    return with_batch_order(replace(made, paths=paths), job)


def _without(plan: Plan, names: Sequence[str]) -> Plan:
    """Return a plan without some settings."""
    settings, extend = (
        {name: value for name, value in values.items() if name not in names} for values in (plan.settings, plan.extend)
    )
    return replace(plan, settings=settings, extend=extend)


def _as_last(stage: Stage) -> Stage:
    """Return the last stage of a model, in whose place the folder of the teacher or student is read."""

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
