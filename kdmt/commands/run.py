"""`kdmt run`: every stage of a pipeline that is not up to date, in order, up to one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from kdmt.choices import StageName, names
from kdmt.errors import UserError
from kdmt.flow.stage import Stage, run_stage
from kdmt.objectives.model_checks import check_architectures
from kdmt.stages.followers import Followers, join_stages
from kdmt.stages.pipeline import Stages, build_stages, checked_stages, chosen_students
from kdmt.stages.score import check_language_model
from kdmt.stages.workspace import Workspace

_WITH_STUDENTS = ("student", "score")  # the stages for which a student can be chosen


def run_pipeline(
    workspace: Workspace,
    *,
    to: StageName = "score",
    student: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Bring a stage up to date, and before it every stage that it is made from.

    Args:
        workspace: the pipeline and its folders.
        to: the last stage. For "score" all students are trained first, or the chosen one alone.
        student: the name of the one student to train; all if None.
        progress: called after each stage with the number of stages that are up to date and the number of all stages
            that are needed.

    Raises:
        UserError: there is no such stage or student, or a stage refuses its settings or its input.
    """
    _check_request(to, student)
    check_architectures(workspace.config)
    check_language_model(workspace.config.score)
    stages = checked_stages(workspace)
    wanted = _wanted(stages, to, student)
    if not wanted:
        workspace.say(f"{to}: the pipeline has none, nothing to do")
    if not workspace.ranks.is_first:
        join_stages(stages.all(), workspace.ranks)
        return
    followers = Followers(workspace.ranks)
    try:
        for done, stage in enumerate(wanted, start=1):
            if stage in stages.groups["score"]:
                (stage,) = build_stages(workspace).groups["score"]  # with students trained by now
            run_stage(stage, rebuild=True, say=workspace.say, making=followers.making)
            if progress is not None:
                progress(done, len(wanted))
    finally:
        followers.dismiss()


def _check_request(to: StageName, student: str | None) -> None:
    if to not in names(StageName):
        raise UserError(f"there is no stage {to!r}: expected one of {', '.join(names(StageName))}")
    if student is not None and to not in _WITH_STUDENTS:
        raise UserError(f"a student has no effect on the stage {to!r}: choose {' or '.join(_WITH_STUDENTS)}")


def _wanted(stages: Stages, to: StageName, student: str | None) -> list[Stage]:
    """Return the stages to run, in the order of the pipeline."""
    last = stages.groups[to]
    if to in _WITH_STUDENTS:
        last = chosen_students(stages, student)
    if to == "score":
        last = [*stages.groups["teacher"], *last, *stages.groups["score"]]
    needed = set(_names(last))
    return [stage for stage in stages.all() if stage.name in needed]


def _names(stages: Iterable[Stage]) -> Iterator[str]:
    """Yield the names of stages and of all that they are made from."""
    for stage in stages:
        yield stage.name
        yield from _names(stage.upstream)
