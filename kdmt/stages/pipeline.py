"""Construction of the stages of a pipeline, and the commands that run them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kdmt.choices import StageName
from kdmt.errors import UserError
from kdmt.flow.circles import check_circles
from kdmt.flow.manifest import check_outputs
from kdmt.flow.shards import run_shard
from kdmt.flow.stage import Stage, require_upstream, run_stage
from kdmt.objectives.model_checks import check_architectures, untrained_fine_tuning
from kdmt.stages.alignments import alignment_stages
from kdmt.stages.back_translation import BACK_TRANSLATED, back_translation_stage
from kdmt.stages.distill import TextStage, text_stages
from kdmt.stages.followers import Followers, join_stages
from kdmt.stages.given_checkpoints import RUN_INPUTS, check_teachers_of_directions, given_checkpoints
from kdmt.stages.knowledge import knowledge_stages
from kdmt.stages.prepare import prepare_shards, prepare_stage
from kdmt.stages.score import check_score, score_stage
from kdmt.stages.tracked_stages import check_trackers, tracked
from kdmt.stages.training import student_stages, teacher_stages
from kdmt.stages.workspace import Workspace


@dataclass(frozen=True)
class Stages:
    """All stages of a pipeline.

    Attributes:
        groups: stages that each command brings up to date, in the order in which they run.
        texts: name of a training set -> its stage with verification and shards, for the sets of the distill stage.
        back_translation: stage of back-translation with verification and shards; None if the pipeline has none.
        students: name -> seed -> stages in which the student is trained, in their order.
    """

    groups: dict[StageName, list[Stage]]
    texts: dict[str, TextStage]
    back_translation: TextStage | None
    students: dict[str, dict[int, tuple[Stage, ...]]]

    def all(self) -> list[Stage]:
        """Return all stages in the order in which they run."""
        return [stage for stages in self.groups.values() for stage in stages]


def build_stages(workspace: Workspace) -> Stages:
    """Return the stages of a pipeline, each with the stages that it depends on."""
    prepare = prepare_stage(workspace)
    back = None if workspace.config.back_translation is None else back_translation_stage(workspace, prepare)
    back_translated = {} if back is None else {BACK_TRANSLATED: back.stage}
    without_teacher = {"raw": prepare, **back_translated}
    of_raw = alignment_stages(workspace, owners={"raw": prepare})
    of_back_translated = alignment_stages(workspace, owners=back_translated)
    of_prepared = of_raw | of_back_translated
    teachers = teacher_stages(workspace, prepare, text=without_teacher, alignments=of_prepared)
    teacher = teachers[-1]
    texts = text_stages(workspace, prepare=prepare, teacher=teacher)
    text = {name: made.stage for name, made in texts.items()}
    of_texts = alignment_stages(workspace, owners=text)
    alignments, text = of_prepared | of_texts, without_teacher | text
    knowledge = knowledge_stages(workspace, prepare=prepare, teacher=teacher, text=text)
    students = {
        name: student_stages(
            workspace,
            name,
            prepare=prepare,
            teacher=teacher,
            text=text,
            knowledge=knowledge,
            alignments=alignments,
        )
        for name in workspace.config.students
    }
    last = {name: {seed: stages[-1] for seed, stages in seeds.items()} for name, seeds in students.items()}
    groups: dict[StageName, list[Stage]] = {
        "prepare": [prepare, *of_raw.values()],
        "back-translate": [*back_translated.values(), *of_back_translated.values()],
        "teacher": list(teachers),
        "distill": [*(made.stage for made in texts.values()), *of_texts.values()],
        "knowledge": list(knowledge.values()),
        "student": [stage for seeds in students.values() for stages in seeds.values() for stage in stages],
        "score": [score_stage(workspace, prepare=prepare, teacher=teacher, students=last)],
    }
    return Stages(groups, texts, back, students)


def checked_stages(workspace: Workspace) -> Stages:
    """Return the stages of a pipeline, after a check that none would be made from itself.

    A warning is logged for each student that is fine-tuned without being trained before.

    Raises:
        UserError: if one would.
    """
    for warning in untrained_fine_tuning(workspace.config):
        workspace.say(f"warning: {warning}")
    stages, of_teacher = build_stages(workspace), workspace.config.teacher_trainings()
    owners: list[tuple[str, list[Stage]]] = [
        *((f"{path}.", [made]) for (path, _), made in zip(of_teacher, stages.groups["teacher"], strict=True)),
        ("distill.teachers.", [made.stage for made in stages.texts.values() if made.shards is not None]),
        ("distill.reverse.", stages.groups["distill"]),
        ("back_translation.", stages.groups["back-translate"]),
        *(
            (f"{path}.", [of_seed[number] for of_seed in seeds.values()])
            for name, seeds in stages.students.items()
            for number, (path, _) in enumerate(workspace.config.trainings_of(name))
        ),
    ]
    # the folder of all stages of a teacher or student is read as the run of the last one
    last = {
        os.path.realpath(workspace.student(name, seed)): str(of_seed[-1].folder)
        for name, seeds in stages.students.items()
        for seed, of_seed in seeds.items()
        if workspace.config.students[name].stages is not None
    }
    if workspace.config.teacher.stages is not None:
        last[os.path.realpath(workspace.teacher)] = str(stages.groups["teacher"][-1].folder)
    given: dict[str, list[tuple[str, str]]] = {}
    for setting, path in given_checkpoints(workspace.config):
        for prefix, own in owners:
            for stage in own if setting.startswith(prefix) else ():
                given.setdefault(stage.name, []).append((setting, last.get(os.path.realpath(path), path)))
    check_circles(given, stages.all(), path_inputs=RUN_INPUTS)
    return stages


def run_shards(workspace: Workspace, shard: int, shards: int, *, rebuild: bool, stage: StageName = "distill") -> None:
    """Make one shard of the stages in which a model decodes.

    Args:
        stage: distill or back-translate.

    Raises:
        UserError: if there is no such shard; see also `run_command`.
    """
    _check_shard(shard, shards)
    check_architectures(workspace.config)
    for made in _text_stages(checked_stages(workspace), stage):
        if made.shards is not None:
            run_shard(made.stage, made.shards, shard, shards, rebuild=rebuild, say=workspace.say)


def _text_stages(stages: Stages, name: StageName) -> list[TextStage]:
    """Return the stages of `kdmt distill` or `kdmt back-translate` that make text."""
    if name == "distill":
        return list(stages.texts.values())
    if stages.back_translation is None:
        raise UserError(f"{name}: the pipeline has no 'back_translation'")
    return [stages.back_translation]


def run_prepare_shard(workspace: Workspace, shard: int, shards: int, *, rebuild: bool) -> None:
    """Make one shard of the cleaning pass of the prepare stage.

    Raises:
        UserError: if there is no such shard; see also `run_command`.
    """
    _check_shard(shard, shards)
    check_architectures(workspace.config)
    stage = checked_stages(workspace).groups["prepare"][0]
    run_shard(stage, prepare_shards(workspace), shard, shards, rebuild=rebuild, say=workspace.say)


def _check_shard(shard: int, shards: int) -> None:
    if not 0 <= shard < shards:
        raise UserError(f"--shard {shard}/{shards}: expected a shard from 0 on and less than their number")


def run_estimate(workspace: Workspace) -> None:
    """Print the requests that the training sets of a language model still need, and request nothing.

    Raises:
        UserError: if the corpus is not prepared, or the teacher needs no requests.
    """
    texts = checked_stages(workspace).texts
    if "distilled" not in texts:
        raise UserError("--dry-run: no training set is translated by a teacher")
    if not workspace.config.distill.has_endpoint:
        raise UserError("--dry-run estimates the requests to an endpoint, and distill.teachers has none")
    require_upstream(texts["distilled"].stage, rebuild=False, say=workspace.say)
    for made in texts.values():
        if made.estimate is not None:
            made.estimate()


def run_verification(workspace: Workspace, *, blocks: int, seed: int | None, stage: StageName = "distill") -> None:
    """Check the training sets that `kdmt distill` or `kdmt back-translate` has made.

    Args:
        blocks: number of random blocks to decode again in each set that has blocks.
        seed: seed for choosing the blocks; None for a random one.
        stage: distill or back-translate.

    Raises:
        UserError: if one is not up to date, or differs.
    """
    for made in _text_stages(build_stages(workspace), stage):
        status = made.stage.status()
        if status.state != "fresh":
            raise UserError(f"{made.stage.name} is not up to date: {status.explain()}")
        check_outputs(made.stage.folder)
        made.verify(blocks, seed)


def run_command(workspace: Workspace, name: StageName, *, rebuild: bool, student: str | None = None) -> None:
    """Bring the stages of a command up to date.

    Args:
        rebuild: True to bring the stages before them up to date too.
        student: name of the student to train; None for all students.

    Raises:
        UserError: if a model cannot be built, the student is unknown, or a stage before this one is not up to date.
    """
    check_architectures(workspace.config)
    check_score(workspace.config)
    check_teachers_of_directions(workspace.config)
    check_trackers(workspace.config)
    stages = checked_stages(workspace)
    wanted = chosen_students(stages, student) if name == "student" else stages.groups[name]
    if not wanted:
        workspace.say(f"{name}: the pipeline has none, nothing to do")
    ranks = workspace.ranks
    if not ranks.is_first:
        join_stages(stages.all(), ranks)
        return
    followers = Followers(ranks)
    try:
        for stage in wanted:
            run_stage(stage, rebuild=rebuild, say=workspace.say, making=tracked(workspace, followers.making))
    finally:
        followers.dismiss()


def chosen_students(stages: Stages, name: str | None) -> list[Stage]:
    if name is not None and name not in stages.students:
        raise UserError(f"there is no student {name!r}; the pipeline has {', '.join(stages.students) or 'none'}")
    names = stages.students if name is None else [name]
    return [stage for student in names for of_seed in stages.students[student].values() for stage in of_seed]
