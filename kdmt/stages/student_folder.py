"""The folder of a student that is trained in stages: it holds the run of each stage, and is read as the last one.

students/<name>/seed_<n>/stage_<m>/     the run of one stage
students/<name>/seed_<n>/last           name of the last stage, a pointer like that of a run to its last checkpoint
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kdmt.flow.folders import earlier_states, move_aside, put_in_place
from kdmt.flow.manifest import Plan, check_status
from kdmt.flow.stage import locked
from kdmt.models.checkpoint_folder import LAST, point


@contextmanager
def at_work_on(run: Path, plan: Plan, say: Callable[[str], None]) -> Iterator[None]:
    """Let the body write the run of a stage, whose own lock is held.

    The folder of the student is locked as well, because a student without stages has its run there. Such a run, from
    before the student had stages, becomes an earlier state of the folder. If the run of this stage does not match its
    plan, a run in an earlier state that does is put in its place: one without stages, or one of this stage from before
    the student had no stages for a time.

    Args:
        plan: plan of the stage.
        say: function that takes a line for the user.

    Raises:
        UserError: if another process trains the student without stages.
    """
    folder = run.parent
    with ExitStack() as locks:
        if any((folder / name).is_file() for name in ("manifest.json", "plan.json")):
            with locked(folder):
                aside = move_aside(folder)
            assert aside is not None
            locks.enter_context(locked(run))  # the lock that is held was renamed with the folder
            (aside / f".{run.name}.lock").unlink()
            say(f"{folder}: the run of the student without stages is kept as {aside}")
        locks.enter_context(locked(folder, alone=False))
        if not _matches(run, plan) and (found := _earlier_run(run, plan)):
            move_aside(run)
            put_in_place(found, run)
            say(f"{run}: taken back from {found}, which was made with these settings")
        yield


def _earlier_run(run: Path, plan: Plan) -> Path | None:
    """Return a run in an earlier state of a student that matches the plan of a stage; complete ones come first."""
    runs = [path for state in earlier_states(run.parent) for path in (state, state / run.name) if _matches(path, plan)]
    return next((path for path in runs if (path / "manifest.json").is_file()), runs[0] if runs else None)


def _matches(run: Path, plan: Plan) -> bool:
    return check_status(run, plan).state in ("fresh", "extend", "unfinished")


def point_to(run: Path) -> None:
    """Let the folder of a student be read as the run of its last stage."""
    pointer = run.parent / LAST
    if not pointer.is_file() or pointer.read_bytes() != f"{run.name}\n".encode():
        point(pointer, run)
