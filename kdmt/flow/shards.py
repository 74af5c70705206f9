"""Stages in shards: several commands make one shard each, and a further command merges the shards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from kdmt.flow.manifest import Plan, Status, check_status
from kdmt.flow.stage import Say, Stage, announcement, locked, look, nothing_to_do, require_upstream, setting_up


@dataclass(frozen=True)
class Shards:
    """The functions that make a stage in shards.

    Attributes:
        begin: function that opens the stage's folder.
        make: function of (plan, shard, number of shards) that makes one shard.
        is_begun: function that returns whether the folder is open for the shards of a plan; None to look at the plan
            that the stage's folder was opened for.
    """

    begin: Callable[[Plan], None]
    make: Callable[[Plan, int, int], None]
    is_begun: Callable[[Plan], bool] | None = None


def run_shard(stage: Stage, shards: Shards, shard: int, num_shards: int, *, rebuild: bool, say: Say) -> None:
    """Make one shard of a stage, possibly while other processes or machines with the same folder make others.

    Raises:
        UserError: see `run_stage`.
    """
    require_upstream(stage, rebuild=rebuild, say=say)
    plan = stage.plan()
    with setting_up(stage.folder):
        if _must_begin(shards, check_status(stage.folder, plan), plan):
            with locked(stage.folder):  # no other process may use the folder that is renamed
                status = look(stage, plan, say)
                if _must_begin(shards, status, plan):
                    say(announcement(status, stage))
                    shards.begin(plan)
        if check_status(stage.folder, plan).state == "fresh":
            nothing_to_do(stage, say)
            return
        at_work = ExitStack()
        at_work.enter_context(locked(stage.folder, alone=False))
    with at_work:
        shards.make(plan, shard, num_shards)


def _must_begin(shards: Shards, status: Status, plan: Plan) -> bool:
    if shards.is_begun is None:
        return status.state in ("stale", "new")
    return status.state != "fresh" and not shards.is_begun(plan)
