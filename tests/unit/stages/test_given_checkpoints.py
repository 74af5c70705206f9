"""Settings by which a stage would be made from itself: refused with the YAML path, before any stage is run or moved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_pipeline import hash_tree, kdmt, settings, working_in, write_pipeline

from kdmt.config import Pipeline
from kdmt.stages.given_checkpoints import given_checkpoints

ROOT = Path("runs/tiny")
RAW, DISTILLED = (ROOT / f"students/{name}/seed_1" for name in ("raw", "distilled"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> Iterator[None]:
    with working_in(tmp_path):
        write_pipeline(tmp_path)
        yield


def configure(**values: Any) -> None:
    """Write the pipeline with these settings, with dots in their names written as `__`."""
    document = settings()
    for name, value in values.items():
        *path, last = name.split("__")
        section = document
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    Path("tiny.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def refused(command: str = "prepare") -> str:
    before = hash_tree(Path())
    result = kdmt(command, "tiny.yaml")
    assert result.code == 2
    assert hash_tree(Path()) == before
    return result.err.removeprefix("kdmt: error: ").removesuffix("\n")


@pytest.mark.parametrize("path", ["runs/tiny/teacher", "runs/tiny/teacher/best", "./runs/tiny/teacher/checkpoint_5"])
@pytest.mark.parametrize("command", ["prepare", "teacher"])
def test_a_runs_own_folder_is_refused(command: str, path: str) -> None:
    configure(teacher__train__init_from=path)
    assert refused(command) == (
        f"teacher.train.init_from: teacher would be made from itself: {path} lies in its own folder"
    )


def test_a_runs_own_folder_by_another_name_is_refused(tmp_path: Path) -> None:
    ROOT.mkdir(parents=True)
    (tmp_path / "big").mkdir()
    (ROOT / "teacher").symlink_to(tmp_path / "big")
    for path in (tmp_path / "big", tmp_path / ROOT / "teacher"):
        configure(teacher__train__init_from=str(path))
        assert f"teacher would be made from itself: {path} lies in its own folder" in refused()
    Path("alias").symlink_to(ROOT)
    configure(teacher__train__init_from="alias/teacher/average")
    assert "alias/teacher/average lies in its own folder" in refused()


def test_a_teacher_initialised_from_its_student_is_refused() -> None:
    configure(
        teacher__train__init_from=str(RAW), students__raw__train__init_from="runs/tiny/teacher", students__distilled={}
    )
    assert refused() == (
        f"teacher.train.init_from: teacher would be made from itself: {RAW} is made from it "
        "(student raw seed 1 <- teacher)"
    )


def test_a_teacher_initialised_from_a_student_on_its_translations_is_refused() -> None:
    configure(teacher__train__init_from=str(DISTILLED))
    assert refused().endswith("is made from it (student distilled seed 1 <- distill <- teacher)")
    configure(distill__teachers=[str(DISTILLED)])
    assert refused() == (
        f"distill.teachers.0: distill would be made from itself: {DISTILLED} is made from it "
        "(student distilled seed 1 <- distill)"
    )


def test_a_cycle_between_seeds_or_students_is_refused() -> None:
    configure(students__raw__seeds=[1, 2], students__raw__train__init_from="runs/tiny/students/raw/seed_2")
    assert "student raw seed 2 would be made from itself" in refused()
    configure(
        students__raw__word_kd={"teachers": [str(DISTILLED)]},
        students__distilled__train__init_from=str(RAW / "average"),
    )
    assert refused() == (
        f"students.distilled.train.init_from: student distilled seed 1 would be made from itself: {RAW}/average is "
        "made from it (student raw seed 1 <- student distilled seed 1)"
    )
    configure(students__raw__word_kd={"teachers": [str(RAW)]})
    assert refused().startswith("students.raw.word_kd.teachers.0: student raw seed 1 would be made from itself: ")


def test_a_cycle_through_runs_of_other_pipelines_is_refused() -> None:
    """Check the records of runs outside the pipeline; `first` and `second` are also made from each other."""
    for run, inputs in {
        "first": {"init_from runs/second": "1", "prepare/train.en": "2"},
        "second": {"teacher runs/first/best": "3", "init_from runs/tiny/teacher/average": "4", "teacher": "5"},
    }.items():
        Path("runs", run).mkdir(parents=True)
        record = {"settings": {}, "extend": {}, "inputs": inputs}
        Path("runs", run, "plan.json").write_text(json.dumps(record), encoding="utf-8")
    configure(teacher__train__init_from="runs/first/last")
    assert refused() == (
        "teacher.train.init_from: teacher would be made from itself: runs/first/last is made from it "
        "(runs/first/last <- runs/second <- teacher)"
    )
    configure(students__raw__train__init_from="runs/first")
    assert kdmt("prepare", "tiny.yaml").code == 0


def test_checkpoints_without_a_cycle_are_accepted() -> None:
    """Check inputs without a cycle, also earlier states of the stage itself and paths that only share a prefix."""
    (ROOT / "teacher.previous").mkdir(parents=True)
    configure(
        teacher__train__init_from="runs/tiny/teacher.previous",
        students__raw__train__init_from="runs/tiny/teacher",
        students__distilled__train__init_from=str(RAW),
        distill__teachers=["runs/tiny/teacher/best", "runs/tiny2/teacher"],
    )
    assert kdmt("prepare", "tiny.yaml").code == 0
    configure(teacher__train__init_from=str(RAW), students__raw__seeds=[10])
    assert kdmt("prepare", "tiny.yaml").code == 0


def test_evaluator_from_the_run_itself_is_refused() -> None:
    selective = {"evaluator": str(DISTILLED), "distilled": [[0, 0.5]]}
    configure(students__distilled__nat={"family": "ctc"}, students__distilled__selective=selective)
    assert refused().startswith("students.distilled.selective.evaluator: student distilled seed 1 would be made from")


def test_every_setting_that_names_a_checkpoint_is_found() -> None:
    document = settings()
    document["teacher"]["train"] |= {"init_from": "a"}
    document["distill"] |= {"teachers": ["b", "c"], "reverse": {"checkpoint": "d"}}
    document["students"]["raw"]["train"] |= {"init_from": "e"}
    document["students"]["raw"]["word_kd"] = {"teachers": ["f"]}
    selective = {"evaluator": "g", "distilled": [[0, 0.5]]}
    document["students"]["distilled"] |= {"nat": {"family": "ctc"}, "selective": selective}
    assert list(given_checkpoints(Pipeline.model_validate(document))) == [
        ("teacher.train.init_from", "a"),
        ("distill.teachers.0", "b"),
        ("distill.teachers.1", "c"),
        ("distill.reverse.checkpoint", "d"),
        ("students.raw.train.init_from", "e"),
        ("students.raw.word_kd.teachers.0", "f"),
        ("students.distilled.selective.evaluator", "g"),
    ]
    assert list(given_checkpoints(Pipeline.model_validate(settings()))) == []
