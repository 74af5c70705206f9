"""A stage of the pipeline and the one rule by which stages are run.

A stage runs when what it would be made from differs from what it was made from. A stage that others build on must be
up to date before they run: if it is not, they stop and say why, unless `rebuild` is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdmt.errors import UserError
from kdmt.stages.manifest import Plan, Status, check_status


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
    """

    name: str
    command: str
    folder: Path
    upstream: tuple[Stage, ...]
    plan: Callable[[], Plan]
    make: Callable[[Plan], None]

    def status(self) -> Status:
        return check_status(self.folder, self.plan())


def run_stage(stage: Stage, *, rebuild: bool, say: Callable[[str], None]) -> bool:
    """Bring a stage up to date; returns whether there was anything to do.

    Raises:
        UserError: a stage that it builds on is not up to date and `rebuild` is not given.
    """
    for upstream in stage.upstream:
        _require(upstream, rebuild=rebuild, say=say)
    plan = stage.plan()
    status = check_status(stage.folder, plan)
    if status.state == "fresh":
        say(f"{stage.name}: up to date, nothing to do")
        return False
    say(f"{stage.name}: {_announcement(status, stage)}")
    stage.make(plan)
    return True


def _announcement(status: Status, stage: Stage) -> str:
    return {
        "new": "starting",
        "unfinished": "going on with what was started",
        "extend": f"going on: {status.explain()}",
        "stale": f"made anew: {status.explain()} (the old one is kept as {stage.folder.name}.previous)",
    }[status.state]


def _require(stage: Stage, *, rebuild: bool, say: Callable[[str], None]) -> None:
    for upstream in stage.upstream:
        _require(upstream, rebuild=rebuild, say=say)
    status = stage.status()
    if status.state == "fresh":
        return
    if not rebuild:
        raise UserError(
            f"{stage.name} is not up to date: {status.explain()}. Run `{stage.command}` first, "
            f"or give --rebuild to bring every stage before this one up to date"
        )
    run_stage(stage, rebuild=True, say=say)
