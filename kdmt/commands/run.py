"""`kdmt run`: run the stages of a pipeline that are not up to date, in order, up to a chosen stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from kdmt.choices import StageName, names
from kdmt.errors import UserError
from kdmt.flow.stage import Stage, run_stage
from kdmt.objectives.model_checks import check_architectures
from kdmt.stages.followers import Followers, join_stages
from kdmt.stages.given_checkpoints import check_teachers_of_directions
from kdmt.stages.pipeline import Stages, build_stages, checked_stages, chosen_students
from kdmt.stages.score import check_score
from kdmt.stages.tracked_stages import check_trackers, tracked
from kdmt.stages.workspace import Workspace

_WITH_STUDENTS = ("student", "score")  # the stages for which a student can be chosen


def run_pipeline(
    workspace: Workspace,
    *,
    to: StageName = "score",
    student: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Bring a stage and all stages that it depends on up to date.

    Args:
        workspace: pipeline and its folders.
        to: last stage. For "score", all students or the chosen student are trained first.
        student: name of the student to train; None for all students.
        progress: function that is called after each stage with the number of stages that are up to date and the number
            of all required stages.

    Raises:
        UserError: if the stage or student does not exist, or a stage refuses its settings or its input.
    """
    _check_request(to, student)
    check_architectures(workspace.config)
    check_score(workspace.config)
    check_teachers_of_directions(workspace.config)
    check_trackers(workspace.config)
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
                (stage,) = build_stages(workspace).groups["score"]  # now that students are trained
            run_stage(stage, rebuild=True, say=workspace.say, making=tracked(workspace, followers.making))
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
    """Yield the names of stages and of all stages that they depend on."""
    for stage in stages:
        yield stage.name
        yield from _names(stage.upstream)
