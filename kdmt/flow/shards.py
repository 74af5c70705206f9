"""A stage that several commands make together, each one shard, before one command puts the shards together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from kdmt.flow.manifest import Plan, check_status
from kdmt.flow.stage import Say, Stage, announcement, locked, look, nothing_to_do, require_upstream, setting_up


@dataclass(frozen=True)
class Shards:
    """How a stage is made in shards.

    Attributes:
        begin: opens the stage's folder.
        make: (plan, shard, number of shards) makes one shard.
    """

    begin: Callable[[Plan], None]
    make: Callable[[Plan, int, int], None]


def run_shard(stage: Stage, shards: Shards, shard: int, num_shards: int, *, rebuild: bool, say: Say) -> None:
    """Make one shard of a stage; others may be made at the same time, here or on other machines that see the folder.

    Raises:
        UserError: as `run_stage`.
    """
    require_upstream(stage, rebuild=rebuild, say=say)
    plan = stage.plan()
    with setting_up(stage.folder):
        if check_status(stage.folder, plan).state in ("stale", "new"):
            with locked(stage.folder):  # no other process is at work in the folder that is moved aside
                status = look(stage, plan, say)
                if status.state in ("stale", "new"):
                    say(announcement(status, stage))
                    shards.begin(plan)
        if check_status(stage.folder, plan).state == "fresh":
            nothing_to_do(stage, say)
            return
        at_work = ExitStack()
        at_work.enter_context(locked(stage.folder, alone=False))
    with at_work:
        shards.make(plan, shard, num_shards)
