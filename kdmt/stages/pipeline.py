"""The stages of a pipeline put together, and the commands that run them."""

from __future__ import annotations

from dataclasses import dataclass

from kdmt.errors import UserError
from kdmt.flow.stage import Followers, Stage, join_stages, run_shard, run_stage
from kdmt.objectives.model_checks import check_architectures
from kdmt.stages.circles import check_circles, given_checkpoints
from kdmt.stages.distill import (
    distill_stage,
    interpolated_stage,
    mbr_stage,
    nbest_stage,
    sampled_stage,
    scored_stage,
)
from kdmt.stages.imported import imported_stage
from kdmt.stages.knowledge import knowledge_stages
from kdmt.stages.prepare import prepare_stage
from kdmt.stages.score import check_language_model, score_stage
from kdmt.stages.training import student_stages, teacher_stage
from kdmt.stages.verify import verify_stage
from kdmt.stages.workspace import Workspace


@dataclass(frozen=True)
class Stages:
    prepare: Stage
    teacher: Stage
    text: dict[str, Stage]  # training set that the teacher makes -> stage; others than `distilled` where one is wanted
    knowledge: dict[str, Stage]  # training set -> stage
    students: dict[str, dict[int, Stage]]  # name -> seed -> stage
    score: Stage

    def texts(self) -> list[Stage]:
        """Up to the training sets."""
        return [self.prepare, self.teacher, *self.text.values()]

    def all(self) -> list[Stage]:
        students = [stage for seeds in self.students.values() for stage in seeds.values()]
        return [*self.texts(), *self.knowledge.values(), *students, self.score]


def build_stages(workspace: Workspace) -> Stages:
    prepare = prepare_stage(workspace)
    teacher = teacher_stage(workspace, prepare)
    text = _text_stages(workspace, prepare, teacher)
    knowledge = knowledge_stages(workspace, prepare=prepare, teacher=teacher, text=text)
    students = {
        name: student_stages(workspace, name, prepare=prepare, teacher=teacher, text=text, knowledge=knowledge)
        for name in workspace.config.students
    }
    score = score_stage(workspace, prepare=prepare, teacher=teacher, students=students)
    return Stages(prepare, teacher, text, knowledge, students, score)


def _text_stages(workspace: Workspace, prepare: Stage, teacher: Stage) -> dict[str, Stage]:
    """Of the training sets that are translations: the teacher's best, and the others that a student asks for."""
    distill = distill_stage(workspace, prepare=prepare, teacher=teacher)
    choices = {
        "interpolated": interpolated_stage,
        "mbr": mbr_stage,
        "scored": scored_stage,
        "nbest": nbest_stage,
    }
    wanted = {student.data for student in workspace.config.students.values()}
    text = {"distilled": distill}
    text |= {
        name: stage(workspace, prepare=prepare, distill=distill) for name, stage in choices.items() if name in wanted
    }
    if "sampled" in wanted:
        text["sampled"] = sampled_stage(workspace, prepare=prepare, teacher=teacher)
    if "imported" in wanted:
        text["imported"] = imported_stage(workspace, prepare=prepare)
        if wanted <= {"imported", "raw"}:
            del text["distilled"]  # nobody asks the teacher
    return text


def checked_stages(workspace: Workspace) -> Stages:
    """The stages, none of which would be made from itself.

    Raises:
        UserError: one would.
    """
    stages = build_stages(workspace)
    owners: list[tuple[str, list[Stage]]] = [
        ("teacher.", [stages.teacher]),
        ("distill.teachers.", [stage for stage in stages.text.values() if stage.shards is not None]),
        ("distill.reverse.", list(stages.text.values())),
        *((f"students.{name}.", list(seeds.values())) for name, seeds in stages.students.items()),
    ]
    given: dict[str, list[tuple[str, str]]] = {}
    for setting, path in given_checkpoints(workspace.config):
        for beginning, own in owners:
            for stage in own if setting.startswith(beginning) else ():
                given.setdefault(stage.name, []).append((setting, path))
    check_circles(given, stages.all())
    return stages


def run_shards(workspace: Workspace, shard: int, shards: int, *, rebuild: bool) -> None:
    """Make one of the shares of the stages that the teacher decodes in.

    Raises:
        UserError: there is no such share, or as for `run_command`.
    """
    if not 0 <= shard < shards:
        raise UserError(f"--shard {shard}/{shards}: expected a shard from 0 on and less than their number")
    check_architectures(workspace.config)
    for stage in checked_stages(workspace).text.values():
        if stage.shards is not None:
            run_shard(stage, shard, shards, rebuild=rebuild, say=workspace.say)


def run_verification(workspace: Workspace, *, blocks: int, seed: int | None) -> None:
    """Check the training sets that `kdmt distill` has made.

    Raises:
        UserError: one is not complete, or not as it was made.
    """
    for stage in build_stages(workspace).text.values():
        verify_stage(stage, blocks=blocks, seed=seed)


def run_command(workspace: Workspace, name: str, *, rebuild: bool, student: str | None = None) -> None:
    """Bring the named stage up to date; `student` is the one student to train, all if None.

    Raises:
        UserError: a model that cannot be built, an unknown student, or a stage before this one is not up to date.
    """
    check_architectures(workspace.config)
    check_language_model(workspace.config.score)
    stages = checked_stages(workspace)
    wanted = {
        "prepare": [stages.prepare],
        "teacher": [stages.teacher],
        "distill": list(stages.text.values()),
        "knowledge": list(stages.knowledge.values()),
        "student": chosen_students(stages, student),
        "score": [stages.score],
    }[name]
    if not wanted:
        workspace.say(f"{name}: the pipeline has none, nothing to do")
    ranks = workspace.ranks
    if not ranks.is_first:
        join_stages(stages.all(), ranks)
        return
    followers = Followers(ranks)
    try:
        for stage in wanted:
            run_stage(stage, rebuild=rebuild, say=workspace.say, followers=followers)
    finally:
        followers.dismiss()


def chosen_students(stages: Stages, name: str | None) -> list[Stage]:
    if name is not None and name not in stages.students:
        raise UserError(f"there is no student {name!r}; the pipeline has {', '.join(stages.students) or 'none'}")
    names = stages.students if name is None else [name]
    return [stage for student in names for stage in stages.students[student].values()]
