"""Tests of the rules for running stages, on stages that write one file each."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from kdmt.checksum import known_sha256
from kdmt.errors import UserError
from kdmt.flow.manifest import Plan, begin, finish, recorded_outputs
from kdmt.flow.stage import Stage, run_stage


@dataclass
class Line:
    """Stages prepare -> teacher -> student, each made from its own setting and the outputs of the previous stage."""

    folder: Path
    settings: dict[str, int]
    made: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def stage(self, name: str) -> Stage:
        names = list(self.settings)
        position = names.index(name)
        before = self.stage(names[position - 1]) if position else None

        def plan() -> Plan:
            inputs = recorded_outputs(before.folder) if before else {}
            return Plan({name: self.settings[name]}, {"more": self.settings.get("more", 0)}, inputs)

        def make(made_from: Plan) -> None:
            folder = self.folder / name
            begin(folder, made_from, {})
            output = folder / f"{name}.out"
            output.write_text(str(made_from.as_dict()), encoding="utf-8")
            finish(folder, made_from, outputs=[output], facts={})
            self.made.append(name)

        upstream = (before,) if before else ()
        show = partial(self.shown.append, name)
        return Stage(name, f"kdmt {name}", self.folder / name, upstream, plan, make, show)

    def run(self, name: str, *, rebuild: bool = False) -> bool:
        self.made.clear()
        self.shown.clear()
        self.messages.clear()
        return run_stage(self.stage(name), rebuild=rebuild, say=self.messages.append)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path, {"prepare": 1, "teacher": 1, "student": 1})


@pytest.fixture
def complete(line: Line) -> Line:
    for name in ("prepare", "teacher", "student"):
        assert line.run(name)
        assert line.messages == [f"{name}: starting"]
    return line


def test_a_fresh_stage_is_not_made_again(complete: Line) -> None:
    for name in ("prepare", "teacher", "student"):
        assert not complete.run(name)
        assert complete.messages == [f"{name}: up to date, nothing to do"]
        assert not complete.made
        assert complete.shown == [name]


def test_upstream_stages_must_exist(line: Line) -> None:
    with pytest.raises(UserError) as caught:
        line.run("student")
    assert str(caught.value) == (
        "prepare is not up to date: it was never made. Run `kdmt prepare` first, "
        "or give --rebuild to bring every stage before this one up to date"
    )
    assert not line.made
    assert not list(line.folder.iterdir())


def test_changing_a_setting_back_restores_the_earlier_state(complete: Line) -> None:
    complete.settings["student"] = 2
    complete.run("student")
    complete.settings["student"] = 1
    assert not complete.run("student")
    assert complete.messages == [
        "student: taken back from student.previous, which was made with these settings",
        "student: up to date, nothing to do",
    ]
    assert not complete.made


def test_two_processes_cannot_run_the_same_stage(complete: Line) -> None:
    complete.settings["student"] = 2
    with (complete.folder / ".student.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="student: another process is at work on it"):
            complete.run("student")
        assert not complete.made
    assert complete.run("student")


def test_a_stale_stage_stops_downstream_stages(complete: Line) -> None:
    complete.settings["prepare"] = 2
    for name in ("teacher", "student"):
        with pytest.raises(UserError, match="prepare is not up to date: the setting prepare changed from 1 to 2"):
            complete.run(name)
        assert not complete.made


def test_the_first_stale_stage_is_named(complete: Line) -> None:
    complete.settings["prepare"] = 2
    complete.run("prepare")
    with pytest.raises(UserError, match=r"teacher is not up to date: the input prepare\.out changed\. Run `kdmt teac"):
        complete.run("student")


def test_rebuild_makes_upstream_stages_in_order(complete: Line) -> None:
    complete.settings["prepare"] = 2
    assert complete.run("student", rebuild=True)
    assert complete.made == ["prepare", "teacher", "student"]
    assert complete.messages == [
        "prepare: rebuilt: the setting prepare changed from 1 to 2 (the old one is kept as prepare.previous)",
        "teacher: rebuilt: the input prepare.out changed (the old one is kept as teacher.previous)",
        "student: rebuilt: the input teacher.out changed (the old one is kept as student.previous)",
    ]


def test_rebuild_does_not_make_fresh_stages_again(complete: Line) -> None:
    complete.settings["teacher"] = 2
    complete.run("student", rebuild=True)
    assert complete.made == ["teacher", "student"]
    complete.run("student", rebuild=True)
    assert not complete.made


def test_downstream_stages_are_not_made(complete: Line) -> None:
    complete.settings["student"] = 2
    complete.run("teacher", rebuild=True)
    assert not complete.made


def test_the_reason_for_continuing_a_stage_is_printed(complete: Line) -> None:
    complete.settings["more"] = 3
    complete.run("prepare")
    assert complete.messages == ["prepare: going on: the setting more changed from 0 to 3"]


def test_an_unfinished_stage_is_continued_and_stops_downstream_stages(complete: Line) -> None:
    begin(complete.folder / "prepare", replace(complete.stage("prepare").plan(), extend={"more": 1}), {})
    with pytest.raises(UserError, match="prepare is not up to date: it was started and not finished"):
        complete.run("teacher")
    complete.run("prepare")
    assert complete.messages == ["prepare: going on: it was started and not finished"]


def test_a_changed_output_stops_downstream_stages(complete: Line) -> None:
    output = complete.folder / "prepare" / "prepare.out"
    kept = output.read_bytes(), known_sha256(output)
    output.write_text("edited by hand", encoding="utf-8")
    with pytest.raises(UserError, match=r"prepare is not up to date: its output prepare\.out was changed"):
        complete.run("teacher")
    output.write_bytes(kept[0])
    assert known_sha256(output) == kept[1]
    assert not complete.run("teacher")
