"""A stage of the pipeline and the one rule by which stages are run.

A stage runs when what it would be made from differs from what it was made from. A stage that others build on must be
up to date before they run: if it is not, they stop and say why, unless `rebuild` is given.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kdmt.errors import UserError
from kdmt.flow.folders import aside_of, make_folder, real_folder
from kdmt.flow.manifest import Plan, Status, check_status, take_back
from kdmt.outputs import open_lock, take
from kdmt.ranks import ALONE, Ranks

_NO_MORE = "no more stages"


@dataclass(frozen=True)
class Shards:
    """How several commands make a stage together, each its share, before one puts it together.

    Attributes:
        begin: opens the stage's folder.
        make: (plan, shard, number of shards) makes a share.
    """

    begin: Callable[[Plan], None]
    make: Callable[[Plan, int, int], None]


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
        show: repeats what `make` has to tell, where there is nothing to do.
        join: what the other ranks do while the first one makes the stage; None for a stage that one process makes.
        shards: how it is made in shares, None if it is not.
        verify: (blocks, seed) checks what was made, decoding so many blocks again; None where there is no such check.
    """

    name: str
    command: str
    folder: Path
    upstream: tuple[Stage, ...]
    plan: Callable[[], Plan]
    make: Callable[[Plan], None]
    show: Callable[[], None] = lambda: None
    join: Callable[[], None] | None = None
    shards: Shards | None = None
    verify: Callable[[int, int | None], None] | None = None

    def status(self) -> Status:
        return check_status(self.folder, self.plan())


class Followers:
    """How the first rank takes the others along: it names each stage that they join, and dismisses them at the end."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.at_work = False

    @contextmanager
    def joining(self, stage: Stage) -> Iterator[None]:
        """While the body makes the stage, so do the others.

        An error in the body is theirs too or ends this process and with it their connections: nothing is waited for.
        """
        if stage.join is None:
            yield
            return
        self.ranks.share(stage.name)
        self.at_work = True
        yield
        self.at_work = False

    def dismiss(self) -> None:
        if not self.at_work:
            self.ranks.share(_NO_MORE)


def run_stage(stage: Stage, *, rebuild: bool, say: Callable[[str], None], followers: Followers | None = None) -> bool:
    """Bring a stage up to date; returns whether there was anything to do.

    Raises:
        UserError: a stage that it builds on is not up to date and `rebuild` is not given.
    """
    for upstream in stage.upstream:
        _require(upstream, rebuild=rebuild, say=say, followers=followers)
    plan = stage.plan()
    if check_status(stage.folder, plan).state == "fresh":
        return _nothing_to_do(stage, say)
    with locked(stage.folder):
        status = _look(stage, plan, say)  # again: what is being made now may be done by another
        if status.state == "fresh":
            return _nothing_to_do(stage, say)
        say(f"{stage.name}: {_announcement(status, stage)}")
        with (followers or Followers()).joining(stage):
            stage.make(plan)
    return True


def run_shard(stage: Stage, shard: int, shards: int, *, rebuild: bool, say: Callable[[str], None]) -> None:
    """Make one share of a stage; others may be made at the same time, here or on other machines that see the folder.

    Raises:
        UserError: the stage is not made in shares, or as for `run_stage`.
    """
    if stage.shards is None:
        raise UserError(f"{stage.name} is not made in shards")
    for upstream in stage.upstream:
        _require(upstream, rebuild=rebuild, say=say, followers=None)
    plan = stage.plan()
    with setting_up(stage.folder):
        if check_status(stage.folder, plan).state in ("stale", "new"):
            with locked(stage.folder):  # no other is at work in the folder that is moved aside
                status = _look(stage, plan, say)
                if status.state in ("stale", "new"):
                    say(f"{stage.name}: {_announcement(status, stage)}")
                    stage.shards.begin(plan)
        if check_status(stage.folder, plan).state == "fresh":
            _nothing_to_do(stage, say)
            return
        at_work = ExitStack()
        at_work.enter_context(locked(stage.folder, alone=False))
    with at_work:
        stage.shards.make(plan, shard, shards)


def _look(stage: Stage, plan: Plan, say: Callable[[str], None]) -> Status:
    """How the stage stands; an earlier state of its folder that fits takes its place."""
    status = check_status(stage.folder, plan)
    if status.state in ("stale", "new") and (state := take_back(stage.folder, plan)):
        say(f"{stage.name}: taken back from {_name_of(state, stage)}, which was made with these settings")
        status = check_status(stage.folder, plan)
    return status


def _nothing_to_do(stage: Stage, say: Callable[[str], None]) -> bool:
    say(f"{stage.name}: up to date, nothing to do")
    stage.show()
    return False


def join_stages(stages: Iterable[Stage], ranks: Ranks) -> None:
    """Take part in what the first rank makes, until it has nothing more to make. For all ranks but the first."""
    by_name = {stage.name: stage for stage in stages}
    while (name := ranks.share("")) != _NO_MORE:
        join = by_name[name].join
        assert join is not None
        join()


@contextmanager
def locked(folder: Path, *, alone: bool = True) -> Iterator[None]:
    """Refuse a second process at work on the same stage; the lock ends with its process, however that ends.

    Args:
        alone: False where others that say so too may be at work.
    """
    with _lock_file(folder, "lock") as file:
        if not take(file, shared=not alone):
            raise UserError(f"{folder}: another process is at work on it")
        yield


@contextmanager
def setting_up(folder: Path) -> Iterator[None]:
    """One process after the other, among those that make shares of a stage."""
    with _lock_file(folder, "setup") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_file(folder: Path, ending: str) -> IO[str]:
    """Beside the folder itself: two links to one folder have one lock."""
    make_folder(folder.parent)
    real = real_folder(folder)
    if not real.parent.is_dir():
        make_folder(folder)  # which says what is wrong with the link
    return open_lock(real, ending)


def _announcement(status: Status, stage: Stage) -> str:
    return {
        "new": f"starting{_where(stage)}",
        "unfinished": f"going on: {status.explain()}",
        "extend": f"going on: {status.explain()}",
        "stale": f"made anew: {status.explain()} (the old one is kept as {_name_of(aside_of(stage.folder), stage)})",
    }[status.state]


def _where(stage: Stage) -> str:
    """A symbolic link to nothing may be a disk that is not mounted."""
    if stage.folder.is_symlink() and not stage.folder.exists():
        return f" in {real_folder(stage.folder)}, where the link {stage.folder} leads"
    return ""


def _name_of(state: Path, stage: Stage) -> str:
    """An earlier state's name, or its path where it lies on a link's disk."""
    return state.name if state.parent == stage.folder.parent else str(state)


def _require(stage: Stage, *, rebuild: bool, say: Callable[[str], None], followers: Followers | None) -> None:
    for upstream in stage.upstream:
        _require(upstream, rebuild=rebuild, say=say, followers=followers)
    status = stage.status()
    if status.state == "fresh":
        return
    if not rebuild:
        raise UserError(
            f"{stage.name} is not up to date: {status.explain()}. Run `{stage.command}` first, "
            f"or give --rebuild to bring every stage before this one up to date"
        )
    run_stage(stage, rebuild=True, say=say, followers=followers)
