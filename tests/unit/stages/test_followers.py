"""Ranks that follow the first rank; here they exchange messages through a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import pytest

from kdmt.flow.manifest import Plan
from kdmt.flow.stage import Stage
from kdmt.ranks import Ranks
from kdmt.stages.followers import Followers, join_stages

Item = TypeVar("Item")
PLAN = Plan({}, {}, {})


@dataclass
class Channel:
    """A channel with the items that the first rank has shared, as both sides see it."""

    items: list[str] = field(default_factory=list)

    def first(self) -> Ranks:
        def share(item: str) -> str:
            self.items.append(item)
            return item

        return cast(Ranks, _Sharing(share))

    def other(self) -> Ranks:
        return cast(Ranks, _Sharing(lambda _: self.items.pop(0)))


@dataclass
class _Sharing:
    share: object


def stage(name: str, joined: list[str] | None = None) -> Stage:
    def join() -> None:
        assert joined is not None
        joined.append(name)

    return Stage(name, name, Path(name), (), lambda: PLAN, lambda _: None, join=None if joined is None else join)


def test_other_ranks_join_the_stages_of_the_first_rank_in_its_order() -> None:
    channel, joined = Channel(), list[str]()
    stages = [stage("prepare"), stage("teacher", joined), stage("student", joined)]
    followers = Followers(channel.first())
    for each in (stages[2], stages[0], stages[1]):
        with followers.making(each):
            pass
    followers.dismiss()
    join_stages(stages, channel.other())
    assert joined == ["student", "teacher"]
    assert channel.items == []


def test_an_error_in_a_joined_stage_leaves_no_message() -> None:
    channel = Channel()
    followers = Followers(channel.first())
    with pytest.raises(RuntimeError, match="oh"), followers.making(stage("teacher", [])):
        raise RuntimeError("oh")
    followers.dismiss()
    assert channel.items == ["teacher"]  # no message that nobody would receive


def test_an_error_in_a_stage_of_one_process_ends_the_other_ranks() -> None:
    channel = Channel()
    followers = Followers(channel.first())
    with pytest.raises(RuntimeError, match="oh"), followers.making(stage("prepare")):
        raise RuntimeError("oh")
    followers.dismiss()
    join_stages([], channel.other())
