"""Tests of `kdmt run`: it runs all stages that are not up to date, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input import message_of
from tiny_pipeline import Finished, kdmt

from kdmt.choices import StageName, names
from kdmt.commands.run import run_pipeline
from kdmt.config import load_pipeline
from kdmt.errors import UserError
from kdmt.stages.pipeline import build_stages
from kdmt.stages.workspace import Workspace

ALL = ["prepare", "teacher", "distill", "student raw seed 1", "student distilled seed 1", "score"]


def run(*arguments: str) -> Finished:
    result = kdmt("run", "tiny.yaml", *arguments)
    assert result.code == 0, result.err
    return result


def begun(result: Finished) -> list[str]:
    """Return the names of the stages that did some work, in order."""
    events = [line.partition(": ") for line in result.err.splitlines()]
    return [name for name, _, event in events if event.startswith(("starting", "rebuilt", "going on"))]


def idle(result: Finished) -> list[str]:
    ending = ": up to date, nothing to do"
    return [line.removesuffix(ending) for line in result.err.splitlines() if line.endswith(ending)]


def manifests(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("manifest.json"))}


def test_all_stages_are_run_in_an_empty_folder(pipeline: Path) -> None:
    result = run()
    assert begun(result) == ALL
    scores = json.loads((pipeline / "runs/tiny/scores.json").read_text(encoding="utf-8"))
    assert {row["system"] for row in scores} == {"teacher", "raw", "distilled"}
    assert not any("missing" in row for row in scores)
    assert "runs/tiny/report.html" in result.out
    again = run()
    assert begun(again) == []
    assert idle(again) == ALL
    assert again.out == result.out  # the table of scores


def test_only_the_stages_that_a_student_needs_are_run(pipeline: Path) -> None:
    assert begun(run("--to", "student", "--student", "raw")) == ["prepare", "student raw seed 1"]
    assert not (pipeline / "runs/tiny/teacher").exists()


def test_scores_of_one_student_list_the_other_as_missing(finished: Path) -> None:
    (finished / "runs/tiny/students/distilled").rename(finished / "gone")
    result = run("--student", "raw")
    assert begun(result) == ["score"]
    scores = json.loads((finished / "runs/tiny/scores.json").read_text(encoding="utf-8"))
    assert [row["system"] for row in scores if "missing" in row] == ["distilled"]


def test_only_stages_that_a_changed_setting_affects_are_run_again(finished: Path) -> None:
    before = manifests(finished / "runs")
    result = run("--set", "students.raw.train.lr=0.02")
    assert begun(result) == ["student raw seed 1", "score"]
    after = manifests(finished / "runs")
    changed = {Path(name).parent.relative_to(finished / "runs/tiny") for name in before if before[name] != after[name]}
    assert {str(name) for name in changed} == {"students/raw/seed_1", "score"}


def test_stages_up_to_the_requested_one_are_run(pipeline: Path) -> None:
    assert begun(run("--to", "prepare")) == ["prepare"]
    assert sorted(path.name for path in (pipeline / "runs/tiny").iterdir() if path.is_dir()) == ["prepare"]


def test_a_stage_that_the_pipeline_does_not_have_needs_no_run(pipeline: Path) -> None:
    result = run("--to", "knowledge")
    assert result.err == "knowledge: the pipeline has none, nothing to do\n"
    assert not (pipeline / "runs").exists()


def test_progress_counts_the_required_stages(finished: Path) -> None:  # noqa: ARG001
    calls: list[tuple[int, int]] = []
    workspace = Workspace(load_pipeline(Path("tiny.yaml")), Path("runs"))
    run_pipeline(workspace, to="teacher", progress=lambda done, total: calls.append((done, total)))
    run_pipeline(workspace, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2), *((done, 6) for done in range(1, 7))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "nobody"], "there is no student 'nobody'; the pipeline has raw, distilled"),
        (["--to", "distill", "--student", "raw"], "a student has no effect on the stage 'distill'"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(pipeline: Path, arguments: list[str], message: str) -> None:
    assert message in message_of(kdmt("run", "tiny.yaml", *arguments))
    assert not (pipeline / "runs").exists()


def test_an_unknown_stage_is_refused(pipeline: Path) -> None:
    result = kdmt("run", "tiny.yaml", "--to", "scores")
    assert (result.code, result.out) == (2, "")
    assert "'scores' is not one of 'prepare', 'back-translate', 'teacher'" in result.err
    with pytest.raises(UserError, match="there is no stage 'scores': expected one of prepare, back-translate, teacher"):
        run_pipeline(Workspace(load_pipeline(Path("tiny.yaml")), Path("runs")), to="scores")  # type: ignore[arg-type]
    assert not (pipeline / "runs").exists()


def test_stage_names_equal_the_groups_of_the_pipeline(pipeline: Path) -> None:  # noqa: ARG001
    stages = build_stages(Workspace(load_pipeline(Path("tiny.yaml")), Path("runs")))
    assert tuple(stages.groups) == names(StageName)


@pytest.mark.parametrize("name", names(StageName))
def test_each_stage_name_is_a_command(name: str) -> None:
    assert kdmt(name, "--help").code == 0


def test_stage_names_are_unique(pipeline: Path) -> None:  # noqa: ARG001
    """Check the names, because `_wanted` identifies stages by them."""
    names = [stage.name for stage in build_stages(Workspace(load_pipeline(Path("tiny.yaml")), Path("runs"))).all()]
    assert len(set(names)) == len(names)
