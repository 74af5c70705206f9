"""The folder of a student that is trained in stages: it holds the run of each stage, and is read as the last one.

students/<name>/seed_<n>/stage_<m>/     the run of one stage
students/<name>/seed_<n>/last           name of the last stage, a pointer like that of a run to its last checkpoint
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kdmt.flow.folders import move_aside, put_in_place
from kdmt.flow.manifest import Plan, check_status
from kdmt.flow.stage import locked
from kdmt.models.checkpoint_folder import LAST, point


@contextmanager
def at_work_on(run: Path, plan: Plan, say: Callable[[str], None]) -> Iterator[None]:
    """Let the body write the run of a stage, whose own lock is held.

    The folder of the student is locked as well, because a student without stages has its run there. Such a run, from
    before the student had stages, becomes the run of this stage if it was made from the same plan; otherwise it is kept
    under the name of an earlier state.

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
            if check_status(aside, plan).state in ("fresh", "extend", "unfinished"):
                put_in_place(aside, run)
                say(f"{folder}: the run of the student without stages is now {run}")
            else:
                say(f"{folder}: the run of the student without stages is kept as {aside}")
        locks.enter_context(locked(folder, alone=False))
        yield


def point_to(run: Path) -> None:
    """Let the folder of a student be read as the run of its last stage."""
    pointer = run.parent / LAST
    if not pointer.is_file() or pointer.read_bytes() != f"{run.name}\n".encode():
        point(pointer, run)
