"""Tests of `kdmt status`: it prints the state of every stage with the reason, and writes nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from bad_input import message_of
from tiny_pipeline import kdmt

from kdmt.commands.status import StageStatus, pipeline_status, status_lines
from kdmt.config import load_pipeline
from kdmt.files import read_json
from kdmt.stages.workspace import Workspace

STAGES = ["prepare", "teacher", "distill", "student raw seed 1", "student distilled seed 1", "score"]


def statuses(*overrides: str) -> dict[str, StageStatus]:
    workspace = Workspace(load_pipeline(Path("tiny.yaml"), overrides), Path("runs"))
    return {each.name: each for each in pipeline_status(workspace)}


def states(*overrides: str) -> list[str]:
    return [each.state for each in statuses(*overrides).values()]


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and the modification time of each file and folder."""
    found = {str(path): path.lstat() for path in sorted(folder.rglob("*"))}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}


def test_stages_of_an_empty_folder_are_not_made_and_it_stays_empty(pipeline: Path) -> None:
    before = everything(pipeline)
    found = statuses()
    assert list(found) == STAGES
    assert {each.state for each in found.values()} == {"not made"}
    assert found["teacher"].reasons == ("prepare is not up to date",)
    assert all((each.size_bytes, each.age_seconds) == (0, None) for each in found.values())
    assert kdmt("status", "tiny.yaml").code == 0
    assert everything(pipeline) == before


def test_a_finished_run_is_up_to_date_and_is_not_changed(finished: Path) -> None:
    before = everything(finished)
    found = statuses()
    assert set(states()) == {"up to date"}
    assert everything(finished) == before
    for each in found.values():
        assert each.reasons == ()
        files = [path for path in each.folder.rglob("*") if path.is_file()]
        assert each.size_bytes == sum(path.stat().st_size for path in files)
        assert each.age_seconds is not None
        assert each.age_seconds < 24 * 3600


def test_age_of_a_stage_is_the_age_of_its_newest_file(finished: Path) -> None:
    folder = finished / "runs/tiny/distill"
    newest = max(path.stat().st_mtime for path in folder.rglob("*") if path.is_file())
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (newest - 7200, newest - 7200))
    ages = {name: each.age_seconds or 0.0 for name, each in statuses().items()}
    assert ages["distill"] >= 7200 > ages["score"]


def test_a_changed_setting_is_named_and_later_stages_are_out_of_date(finished: Path) -> None:  # noqa: ARG001
    found = statuses("students.raw.train.lr=0.5")
    assert found["student raw seed 1"].state == "out of date"
    assert "students.raw.train.lr changed from 0.01 to 0.5" in found["student raw seed 1"].reasons[0]
    assert (found["score"].state, found["score"].reasons) == ("out of date", ("student raw seed 1 is not up to date",))
    assert found["student distilled seed 1"].state == "up to date"


def test_more_updates_extend_the_training(finished: Path) -> None:  # noqa: ARG001
    found = statuses("teacher.train.max_updates=80")
    assert found["teacher"].state == "out of date"
    assert "max_updates changed from 60 to 80" in found["teacher"].reasons[0]


def test_a_damaged_output_is_incomplete(finished: Path) -> None:
    (finished / "runs/tiny/prepare/train.en").write_text("changed\n")
    found = statuses()
    assert found["prepare"].state == "incomplete"
    assert found["prepare"].reasons == ("its output train.en was changed",)


def test_an_unfinished_stage_is_incomplete(finished: Path) -> None:
    folder = finished / "runs/tiny/teacher"
    manifest = read_json(folder / "manifest.json")
    assert manifest is not None
    plan = {key: manifest[key] for key in ("settings", "extend", "inputs")}
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "manifest.json").unlink()
    assert statuses()["teacher"].state == "incomplete"


def test_a_missing_corpus_is_a_reason_and_not_an_error(pipeline: Path) -> None:
    (pipeline / "text/train.en").unlink()
    found = statuses()
    assert found["prepare"].state == "not made"
    assert "text/train.en: there is no such file" in found["prepare"].reasons[0]


def test_json_has_the_same_content_as_the_table(finished: Path) -> None:
    shutil.rmtree(finished / "runs/tiny/score")
    table = kdmt("status", "tiny.yaml")
    record = json.loads(kdmt("status", "tiny.yaml", "--json").out)
    assert (record["pipeline"], record["folder"]) == ("tiny", "runs/tiny")
    assert [stage["name"] for stage in record["stages"]] == STAGES
    heading, *lines = table.out.splitlines()
    assert heading.split() == ["stage", "state", "size", "age", "reason"]
    for line, stage in zip(lines, record["stages"], strict=True):
        assert line.startswith(stage["name"])
        assert f"  {stage['state']}  " in line
        assert line.endswith("; ".join(stage["reasons"]))
    assert record["stages"][-1]["state"] == "not made"
    assert table.err == ""


def test_the_options_set_and_runs_are_used(finished: Path) -> None:
    (finished / "runs").rename(finished / "elsewhere")
    assert kdmt("status", "tiny.yaml").out.count("not made") == len(STAGES)
    moved = kdmt("status", "tiny.yaml", "--runs", "elsewhere", "--set", "score.beams=[1]")
    assert moved.out.count("up to date") == len(STAGES) - 1
    assert "score.beams changed" in moved.out


def test_an_invalid_pipeline_prints_one_message(pipeline: Path) -> None:
    assert "there is no such pipeline file" in message_of(kdmt("status", "nope.yaml"))
    (pipeline / "tiny.yaml").write_text("name: [\n")
    assert "not valid YAML" in message_of(kdmt("status", "tiny.yaml"))


@pytest.mark.parametrize(
    ("size", "age", "shown"),
    [
        (0, None, "-  -"),
        (999, 59.0, "999 B  under a minute"),
        (1_000, 60.0, "1.0 kB  1 minute"),
        (2_500_000, 7_300.0, "2.5 MB  2 hours"),
        (3_000_000_000, 86_400.0, "3.0 GB  1 day"),
    ],
)
def test_sizes_and_ages_are_formatted_in_the_table(size: int, age: float | None, shown: str) -> None:
    line = status_lines([StageStatus("a stage", "up to date", (), Path("x"), size, age)])[1]
    assert " ".join(line.split()) == f"a stage up to date {' '.join(shown.split())}"


@pytest.mark.usefixtures("finished")
def test_every_stage_of_a_student_has_a_row() -> None:
    stages = "students.raw.stages=[{}, {lr: 0.005}]"
    names = ["student raw seed 1 stage 1", "student raw seed 1 stage 2"]
    found = statuses(stages)
    assert [name for name in found if name.startswith("student raw")] == names
    assert [found[name].state for name in names] == ["not made", "not made"]
    assert kdmt("student", "tiny.yaml", "--set", stages).code == 0
    found = statuses(stages)
    assert [found[name].state for name in names] == ["up to date", "up to date"]
    assert [found[name].folder for name in names] == [
        Path("runs/tiny/students/raw/seed_1") / stage for stage in ("stage_1", "stage_2")
    ]
    found = statuses(stages, "students.raw.stages.1.lr=0.5")
    assert found[names[1]].reasons == ("the setting students.raw.stages.1.lr changed from 0.005 to 0.5",)
    found = statuses(stages, "students.raw.stages.0.lr=0.5")
    assert found[names[0]].reasons == ("the setting students.raw.stages.0.lr changed from 0.01 to 0.5",)
    assert [found[name].state for name in names] == ["out of date", "out of date"]
    assert found[names[1]].reasons == ("student raw seed 1 stage 1 is not up to date",)
    assert found["score"].state == "out of date"
