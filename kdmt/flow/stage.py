"""A stage of a pipeline, and the one rule by which stages run.

A stage runs when what it would be made from differs from what it was made from. A stage that others build on must be
up to date before they run. If it is not, they stop and say why, unless `rebuild` is given.
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

Say = Callable[[str], None]  # takes a line for the user


def _no_extent(_: Path) -> int:
    return 0


@dataclass(frozen=True)
class Stage:
    """One stage of one pipeline.

    Attributes:
        name: for messages.
        command: what makes it, as the user types it.
        folder: where it writes.
        upstream: the stages it reads from.
        plan: what it is made from; called once its upstream stages are complete.
        make: does the work and writes the manifest.
        show: repeats what `make` prints at its end, where there is nothing to do.
        join: what other processes of the same command do while the first one makes the stage; None for a stage that
            one process makes.
        extent: how much work a state of the folder is; of several earlier states that fit, the largest is taken back.
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
        """Compare the folder with the plan."""
        return check_status(self.folder, self.plan())


# the context in which a stage is made
Making = Callable[[Stage], AbstractContextManager[None]]


def _alone(_: Stage) -> AbstractContextManager[None]:
    return nullcontext()


def run_stage(stage: Stage, *, rebuild: bool, say: Say, making: Making = _alone) -> bool:
    """Bring a stage up to date.

    Args:
        rebuild: bring the stages before it up to date too.
        making: gives the context in which this stage and those before it are made.

    Returns:
        Whether there was anything to do.

    Raises:
        UserError: a stage that it builds on is not up to date and `rebuild` is not given.
    """
    require_upstream(stage, rebuild=rebuild, say=say, making=making)
    plan = stage.plan()
    if check_status(stage.folder, plan).state == "fresh":
        return nothing_to_do(stage, say)
    with locked(stage.folder):
        status = look(stage, plan, say)  # again: what is being made now may be done by another process
        if status.state == "fresh":
            return nothing_to_do(stage, say)
        say(announcement(status, stage))
        with making(stage):
            stage.make(plan)
    return True


def require_upstream(stage: Stage, *, rebuild: bool, say: Say, making: Making = _alone) -> None:
    """Bring the stages before a stage up to date, or refuse to go on where `rebuild` is not given.

    Raises:
        UserError: one is not up to date and `rebuild` is not given.
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
    """Return the status of a stage, after an earlier state of its folder that fits the plan has taken its place."""
    status = check_status(stage.folder, plan)
    if status.state in ("stale", "new") and (state := take_back(stage.folder, plan, stage.extent)):
        say(f"{stage.name}: taken back from {_name_of(state, stage)}, which was made with these settings")
        status = check_status(stage.folder, plan)
    return status


def nothing_to_do(stage: Stage, say: Say) -> bool:
    """Say that a stage is up to date; return False."""
    say(f"{stage.name}: up to date, nothing to do")
    stage.show()
    return False


# --------------------------------------------------------------------------------------------------------------- locks


@contextmanager
def locked(folder: Path, *, alone: bool = True) -> Iterator[None]:
    """Refuse a second process at work on the same stage; the lock ends with its process, however that ends.

    Args:
        alone: False where others that pass False too may be at work.

    Raises:
        UserError: another process is at work.
    """
    with _lock_file(folder, "lock") as file:
        if not take(file, shared=not alone):
            raise UserError(f"{folder}: another process is at work on it")
        yield


@contextmanager
def setting_up(folder: Path) -> Iterator[None]:
    """Let processes that make one stage together enter the body one after the other."""
    with _lock_file(folder, "setup") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_file(folder: Path, ending: str) -> IO[str]:
    """Open a lock next to the folder itself: two links to one folder have one lock."""
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
        "stale": f"made anew: {status.explain()} (the old one is kept as {old})",
    }[status.state]
    return f"{stage.name}: {text}"


def _where(stage: Stage) -> str:
    """Name the target of a symbolic link that leads to nothing: its disk may not be mounted."""
    if stage.folder.is_symlink() and not stage.folder.exists():
        return f" in {real_folder(stage.folder)}, where the link {stage.folder} leads"
    return ""


def _name_of(state: Path, stage: Stage) -> str:
    """Return the name of an earlier state, or its path where it is on the disk of a link."""
    return state.name if state.parent == stage.folder.parent else str(state)
