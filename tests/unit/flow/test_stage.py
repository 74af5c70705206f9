"""The rule by which stages are run, on stages that write one word."""

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
    """prepare -> teacher -> student, each made from its own setting and the outputs of the one before."""

    folder: Path
    settings: dict[str, int]
    made: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

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
        self.said.clear()
        return run_stage(self.stage(name), rebuild=rebuild, say=self.said.append)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path, {"prepare": 1, "teacher": 1, "student": 1})


@pytest.fixture
def complete(line: Line) -> Line:
    for name in ("prepare", "teacher", "student"):
        assert line.run(name)
        assert line.said == [f"{name}: starting"]
    return line


def test_a_fresh_stage_says_that_there_is_nothing_to_do(complete: Line) -> None:
    for name in ("prepare", "teacher", "student"):
        assert not complete.run(name)
        assert complete.said == [f"{name}: up to date, nothing to do"]
        assert not complete.made
        assert complete.shown == [name]


def test_a_stage_that_others_build_on_must_be_there(line: Line) -> None:
    with pytest.raises(UserError) as caught:
        line.run("student")
    assert str(caught.value) == (
        "prepare is not up to date: it was never made. Run `kdmt prepare` first, "
        "or give --rebuild to bring every stage before this one up to date"
    )
    assert not line.made
    assert not list(line.folder.iterdir())


def test_a_setting_that_is_put_back_finds_what_it_had_made(complete: Line) -> None:
    complete.settings["student"] = 2
    complete.run("student")
    complete.settings["student"] = 1
    assert not complete.run("student")
    assert complete.said == [
        "student: taken back from student.previous, which was made with these settings",
        "student: up to date, nothing to do",
    ]
    assert not complete.made


def test_two_processes_do_not_work_on_one_stage(complete: Line) -> None:
    complete.settings["student"] = 2
    with (complete.folder / ".student.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="student: another process is at work on it"):
            complete.run("student")
        assert not complete.made
    assert complete.run("student")


def test_a_stale_stage_stops_those_that_build_on_it(complete: Line) -> None:
    complete.settings["prepare"] = 2
    for name in ("teacher", "student"):
        with pytest.raises(UserError, match="prepare is not up to date: the setting prepare changed from 1 to 2"):
            complete.run(name)
        assert not complete.made


def test_the_first_stale_stage_is_the_one_named(complete: Line) -> None:
    complete.settings["prepare"] = 2
    complete.run("prepare")
    with pytest.raises(UserError, match=r"teacher is not up to date: the input prepare\.out changed\. Run `kdmt teac"):
        complete.run("student")


def test_rebuild_brings_all_before_it_up_to_date_in_order(complete: Line) -> None:
    complete.settings["prepare"] = 2
    assert complete.run("student", rebuild=True)
    assert complete.made == ["prepare", "teacher", "student"]
    assert complete.said == [
        "prepare: rebuilt: the setting prepare changed from 1 to 2 (the old one is kept as prepare.previous)",
        "teacher: rebuilt: the input prepare.out changed (the old one is kept as teacher.previous)",
        "student: rebuilt: the input teacher.out changed (the old one is kept as student.previous)",
    ]


def test_rebuild_leaves_fresh_stages_alone(complete: Line) -> None:
    complete.settings["teacher"] = 2
    complete.run("student", rebuild=True)
    assert complete.made == ["teacher", "student"]
    complete.run("student", rebuild=True)
    assert not complete.made


def test_what_comes_after_a_stage_is_none_of_its_business(complete: Line) -> None:
    complete.settings["student"] = 2
    complete.run("teacher", rebuild=True)
    assert not complete.made


def test_going_on_is_announced_with_its_reason(complete: Line) -> None:
    complete.settings["more"] = 3
    complete.run("prepare")
    assert complete.said == ["prepare: going on: the setting more changed from 0 to 3"]


def test_an_unfinished_stage_is_gone_on_with_and_stops_others(complete: Line) -> None:
    begin(complete.folder / "prepare", replace(complete.stage("prepare").plan(), extend={"more": 1}), {})
    with pytest.raises(UserError, match="prepare is not up to date: it was started and not finished"):
        complete.run("teacher")
    complete.run("prepare")
    assert complete.said == ["prepare: going on: it was started and not finished"]


def test_an_output_that_somebody_changed_stops_what_builds_on_it(complete: Line) -> None:
    output = complete.folder / "prepare" / "prepare.out"
    kept = output.read_bytes(), known_sha256(output)
    output.write_text("edited by hand", encoding="utf-8")
    with pytest.raises(UserError, match=r"prepare is not up to date: its output prepare\.out was changed"):
        complete.run("teacher")
    output.write_bytes(kept[0])
    assert known_sha256(output) == kept[1]
    assert not complete.run("teacher")
