"""Stages of a pipeline, and the rule that decides when they run.

A stage runs if its plan differs from the record of its last run. The stages that it depends on must be up to date
first; if one is not, an error explains why, unless `rebuild` is given.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kdmt.errors import UserError
from kdmt.flow.folders import aside_of, make_folder, real_folder
from kdmt.flow.manifest import Plan, Status, check_status, take_back
from kdmt.outputs import open_lock, take

Say = Callable[[str], None]  # function that takes a line for the user


def _no_extent(_: Path) -> int:
    return 0


@dataclass(frozen=True)
class Stage:
    """One stage of one pipeline.

    Attributes:
        name: name for messages.
        command: command that makes it, as the user types it.
        folder: folder that it writes to.
        upstream: stages that it reads from.
        plan: function that returns its plan; it is called when its upstream stages are complete.
        make: function that does the work and writes the manifest.
        show: function that prints the result again if the stage is up to date.
        join: function that other ranks call while the first one makes the stage; None for a stage that one process
            makes.
        extent: function that returns the amount of work in a state of the folder, for the choice among earlier states.
    """

    name: str
    command: str
    folder: Path
    upstream: tuple[Stage, ...]
    plan: Callable[[], Plan]
    make: Callable[[Plan], None]
    show: Callable[[], None] = lambda: None
    join: Callable[[], None] | None = None
    extent: Callable[[Path], int] = _no_extent

    def status(self) -> Status:
        """Compare the folder with the plan, and return its status."""
        return check_status(self.folder, self.plan())


# stage -> context in which it is made
Making = Callable[[Stage], AbstractContextManager[None]]


def _alone(_: Stage) -> AbstractContextManager[None]:
    return nullcontext()


def run_stage(stage: Stage, *, rebuild: bool, say: Say, making: Making = _alone) -> bool:
    """Bring a stage up to date.

    Args:
        rebuild: True to bring the stages before it up to date too.
        making: function that returns the context in which this stage and those before it are made.

    Returns:
        True if there was anything to do.

    Raises:
        UserError: if a stage that it depends on is not up to date and `rebuild` is False.
    """
    require_upstream(stage, rebuild=rebuild, say=say, making=making)
    plan = stage.plan()
    if check_status(stage.folder, plan).state == "fresh":
        return nothing_to_do(stage, say)
    with locked(stage.folder):
        status = look(stage, plan, say)  # check again: another process may have made it in the meantime
        if status.state == "fresh":
            return nothing_to_do(stage, say)
        say(announcement(status, stage))
        with making(stage):
            stage.make(plan)
    return True


def require_upstream(stage: Stage, *, rebuild: bool, say: Say, making: Making = _alone) -> None:
    """Bring the stages before a stage up to date if `rebuild` is True, otherwise check that they are.

    Raises:
        UserError: if one is not up to date and `rebuild` is False.
    """
    for upstream in stage.upstream:
        _require(upstream, rebuild=rebuild, say=say, making=making)


def _require(stage: Stage, *, rebuild: bool, say: Say, making: Making) -> None:
    require_upstream(stage, rebuild=rebuild, say=say, making=making)
    status = stage.status()
    if status.state == "fresh":
        return
    if not rebuild:
        raise UserError(
            f"{stage.name} is not up to date: {status.explain()}. Run `{stage.command}` first, "
            f"or give --rebuild to bring every stage before this one up to date"
        )
    run_stage(stage, rebuild=True, say=say, making=making)


def look(stage: Stage, plan: Plan, say: Say) -> Status:
    """Return the status of a stage, after restoring an earlier state of its folder if one matches the plan."""
    status = check_status(stage.folder, plan)
    if status.state in ("stale", "new") and (state := take_back(stage.folder, plan, stage.extent)):
        say(f"{stage.name}: taken back from {_name_of(state, stage)}, which was made with these settings")
        status = check_status(stage.folder, plan)
    return status


def nothing_to_do(stage: Stage, say: Say) -> bool:
    """Print that a stage is up to date, and its result; return False."""
    say(f"{stage.name}: up to date, nothing to do")
    stage.show()
    return False


# --------------------------------------------------------------------------------------------------------------- locks


@contextmanager
def locked(folder: Path, *, alone: bool = True) -> Iterator[None]:
    """Lock the folder of a stage, so that no second process works on it; the lock is released when the process ends.

    Args:
        alone: True for an exclusive lock, False for a lock that several processes may share.

    Raises:
        UserError: if another process has a conflicting lock.
    """
    with _lock_file(folder, "lock") as file:
        if not take(file, shared=not alone):
            raise UserError(f"{folder}: another process is at work on it")
        yield


@contextmanager
def setting_up(folder: Path) -> Iterator[None]:
    """Serialise the body between processes that make one stage together."""
    with _lock_file(folder, "setup") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_file(folder: Path, ending: str) -> IO[str]:
    """Open a lock file next to the real folder, so that two links to one folder share a lock."""
    make_folder(folder.parent)
    real = real_folder(folder)
    if not real.parent.is_dir():
        make_folder(folder)  # raises the error that explains what is wrong with the link
    return open_lock(real, ending)


# ------------------------------------------------------------------------------------------------------------ messages


def announcement(status: Status, stage: Stage) -> str:
    """Return the line with which work on a stage begins."""
    old = _name_of(aside_of(stage.folder), stage)
    text = {
        "new": f"starting{_where(stage)}",
        "unfinished": f"going on: {status.explain()}",
        "extend": f"going on: {status.explain()}",
        "stale": f"rebuilt: {status.explain()} (the old one is kept as {old})",
    }[status.state]
    return f"{stage.name}: {text}"


def _where(stage: Stage) -> str:
    """Return a note on the target of a dangling symbolic link, since its disk may not be mounted; else ''."""
    if stage.folder.is_symlink() and not stage.folder.exists():
        return f" in {real_folder(stage.folder)}, where the link {stage.folder} leads"
    return ""


def _name_of(state: Path, stage: Stage) -> str:
    """Return the name of an earlier state, or its path if it is not in the parent folder of the stage."""
    return state.name if state.parent == stage.folder.parent else str(state)
