"""Tests of stages that are made in shards, on a stage whose shards write one file each."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.flow.manifest import Plan, begin, finish
from kdmt.flow.shards import Shards, run_shard
from kdmt.flow.stage import Stage, run_stage


@dataclass
class Text:
    """Stage whose shards write one file `<shard>-of-<shards>.part` each."""

    root: Path
    setting: int = 1
    begun: int = 0
    messages: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.root / "text"

    @property
    def stage(self) -> Stage:
        return Stage("text", "make text", self.folder, (), self.plan, self.make)

    def plan(self) -> Plan:
        return Plan({"setting": self.setting}, {}, {})

    def make(self, plan: Plan) -> None:
        begin(self.folder, plan, {})
        outputs = sorted(self.folder.glob("*.part"))
        finish(self.folder, plan, outputs=outputs, facts={})

    def begin(self, plan: Plan) -> None:
        self.begun += 1
        begin(self.folder, plan, {})

    def make_shard(self, plan: Plan, shard: int, shards: int) -> None:
        (self.folder / f"{shard}-of-{shards}.part").write_text(str(plan.settings))

    def run(self, shard: int) -> None:
        self.messages.clear()
        shards = Shards(self.begin, self.make_shard)
        run_shard(self.stage, shards, shard, 2, rebuild=False, say=self.messages.append)


@pytest.fixture
def text(tmp_path: Path) -> Text:
    return Text(tmp_path)


def parts(text: Text) -> list[str]:
    return sorted(path.name for path in text.folder.glob("*.part"))


def test_the_first_shard_makes_the_folder_and_others_add_files(text: Text) -> None:
    text.run(1)
    assert text.messages == ["text: starting"]
    text.run(0)
    assert text.messages == []
    assert (text.begun, parts(text)) == (1, ["0-of-2.part", "1-of-2.part"])
    assert text.stage.status().state == "unfinished"
    assert run_stage(text.stage, rebuild=False, say=text.messages.append)
    assert text.stage.status().state == "fresh"


def test_a_shard_of_a_complete_stage_does_nothing(text: Text) -> None:
    text.run(0)
    run_stage(text.stage, rebuild=False, say=text.messages.append)
    text.run(1)
    assert text.messages == ["text: up to date, nothing to do"]
    assert parts(text) == ["0-of-2.part"]


def test_a_shard_with_other_settings_moves_the_old_state_aside(text: Text) -> None:
    text.run(0)
    text.setting = 2
    text.run(1)
    assert parts(text) == ["1-of-2.part"]
    assert [path.name for path in text.root.glob("text.unfinished/*.part")] == ["0-of-2.part"]
    text.setting = 1
    text.run(1)
    assert text.messages[0].startswith("text: taken back from text.unfinished")
    assert parts(text) == ["0-of-2.part", "1-of-2.part"]


def test_a_folder_is_not_moved_aside_while_a_shard_is_running(text: Text) -> None:
    text.run(0)
    text.setting = 2
    with (text.root / ".text.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # another shard
        with pytest.raises(UserError, match="another process is at work on it"):
            text.run(1)
    assert parts(text) == ["0-of-2.part"]


def test_shards_run_at_the_same_time(text: Text) -> None:
    text.run(0)
    with (text.root / ".text.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        text.run(1)
        assert parts(text) == ["0-of-2.part", "1-of-2.part"]
        with pytest.raises(UserError, match="another process is at work on it"):
            run_stage(text.stage, rebuild=False, say=text.messages.append)


def test_upstream_stages_must_be_up_to_date(text: Text, tmp_path: Path) -> None:
    before = Text(tmp_path / "before")
    stage = Stage("text", "make text", text.folder, (before.stage,), text.plan, text.make)
    with pytest.raises(UserError, match="text is not up to date: it was never made"):
        run_shard(stage, Shards(text.begin, text.make_shard), 0, 2, rebuild=False, say=text.messages.append)
    assert not text.folder.exists()


def test_a_stage_whose_shards_are_in_another_folder_is_begun_once(text: Text) -> None:
    begun: list[Plan] = []
    shards = Shards(begun.append, text.make_shard, lambda plan: plan in begun)
    text.folder.mkdir()
    for shard in range(2):
        run_shard(text.stage, shards, shard, 2, rebuild=False, say=text.messages.append)
    assert begun == [text.plan()]
    assert text.messages == ["text: starting"]
    run_stage(text.stage, rebuild=False, say=text.messages.append)
    begun.clear()
    run_shard(text.stage, shards, 0, 2, rebuild=False, say=text.messages.append)
    assert begun == []
    assert text.messages[-1] == "text: up to date, nothing to do"
