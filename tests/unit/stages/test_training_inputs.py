"""Input files of a training stage, with the checksums that other stages recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline

from kdmt.checksum import file_sha256
from kdmt.config import Pipeline, SelfSupervised, Student
from kdmt.files import write_json
from kdmt.flow.manifest import Plan, check_status
from kdmt.stages.training_inputs import (
    Job,
    batch_order,
    cache_made_from,
    init_inputs,
    monolingual_splits,
    needs_teacher,
    teacher_checkpoints,
    teaching_inputs,
    training_inputs,
    with_batch_order,
)
from kdmt.stages.workspace import Workspace

AVERAGE = Path("runs/tiny/teacher/average/model.safetensors")


def workspace() -> Workspace:
    return Workspace(Pipeline.model_validate(tiny_pipeline.settings()), Path("runs"))


def student(**settings: Any) -> Student:
    return Student.model_validate(settings)


def job(*, before: Path | None = None, **settings: Any) -> Job:
    own = student(**settings)
    folder = Path("runs/tiny/students/x/seed_1")
    return Job(
        *("x", folder, own.model, own.train, 1, ("raw",), "students.x"),
        student=own,
        before=before,
        begin_from=own.begin_from,
    )


@pytest.mark.usefixtures("finished")
def test_inputs_are_files_of_prepare_and_of_the_training_sets() -> None:
    found = training_inputs(workspace(), ("raw", "distilled"))
    prefix = "prepare/data-bin/valid.en-de"
    assert {f"{prefix}.{side}.{kind}" for side in ("en", "de") for kind in ("bin", "idx")} <= set(found)
    assert {name.partition("/")[0] for name in found} == {"prepare", "distill"}
    assert not [name for name in found if "test." in name]
    for name, sha256 in found.items():
        assert file_sha256(Path("runs/tiny") / name) == sha256


@pytest.mark.usefixtures("finished")
def test_the_teacher_of_a_student_is_an_input() -> None:
    whole = workspace()
    sha256 = file_sha256(AVERAGE)
    assert teaching_inputs(whole, student()) == {}
    assert teaching_inputs(whole, student(word_kd={})) == {"teacher": sha256}
    assert teaching_inputs(whole, student(embeddings_from_teacher=True)) == {"teacher": sha256}
    other = student(word_kd={"teachers": ["runs/tiny/teacher/checkpoint_40"]})
    name, found = next(iter(teaching_inputs(whole, other).items()))
    assert name == "teacher runs/tiny/teacher/checkpoint_40"
    assert found == file_sha256(Path("runs/tiny/teacher/checkpoint_40/model.safetensors"))
    assert teacher_checkpoints(whole, other) == [Path("runs/tiny/teacher/checkpoint_40")]
    assert teacher_checkpoints(whole, student(word_kd={})) == [AVERAGE.parent]


@pytest.mark.usefixtures("finished")
def test_a_cache_depends_on_the_training_set_the_dictionary_and_the_teacher() -> None:
    found = cache_made_from(workspace(), "distilled")
    recorded = json.loads(Path("runs/tiny/distill/manifest.json").read_text())["outputs"]
    data = {name: sha256 for name, sha256 in recorded.items() if name.startswith("data-bin/train.")}
    dictionary = file_sha256(Path("runs/tiny/prepare/dict.de.txt"))
    assert found == {**data, "dict.de.txt": dictionary, "teacher/average": file_sha256(AVERAGE)}


PLAN = Plan({"lr": 1.0}, {"max_updates": 4}, {})


def later(folder: Path, number: int = 2) -> Job:
    return replace(job(), folder=folder / f"stage_{number}", number=number)


def record(folder: Path, **settings: object) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "plan.json", replace(PLAN, settings=settings).as_dict())


def test_a_stage_after_the_first_has_its_own_order_of_batches(tmp_path: Path) -> None:
    assert with_batch_order(PLAN, later(tmp_path, 1)) == PLAN
    for number in (2, 3):
        assert with_batch_order(PLAN, later(tmp_path, number)).settings == {"lr": 1.0, "batch_order": number}
    record(tmp_path / "stage_2", lr=1.0, batch_order=2)
    assert with_batch_order(PLAN, later(tmp_path)).settings["batch_order"] == 2
    assert batch_order(later(tmp_path)) == 2


def test_a_run_without_the_number_of_its_order_of_batches_keeps_the_first_order(tmp_path: Path) -> None:
    run = later(tmp_path)
    record(run.folder, lr=1.0)
    assert batch_order(run) == 1
    plan = with_batch_order(PLAN, run)
    assert plan.settings["batch_order"] == 1
    assert check_status(run.folder, plan).state == "unfinished"
    changed = with_batch_order(replace(PLAN, settings={"lr": 2.0}), run)
    assert changed.settings["batch_order"] == 2


@pytest.mark.parametrize("state", ["seed_1/stage_2.unfinished", "seed_1.unfinished/stage_2"])
def test_an_earlier_state_is_found_with_its_order_of_batches(tmp_path: Path, state: str) -> None:
    run = later(tmp_path / "seed_1")
    record(run.folder, lr=2.0, batch_order=2)
    record(tmp_path / state, lr=1.0)
    plan = with_batch_order(PLAN, run)
    assert plan.settings["batch_order"] == 1
    assert check_status(tmp_path / state, plan).state == "unfinished"


def test_training_sets_are_joined_in_their_order() -> None:
    assert student(data="raw").data_names == ("raw",)
    assert student(data="mixed").data_names == ("raw", "distilled")


def test_only_a_student_that_runs_or_copies_the_teacher_needs_it() -> None:
    assert [
        needs_teacher(student(**settings))
        for settings in (
            {},
            {"word_kd": {}},
            {"word_kd": {"source": "cache"}},
            {"word_kd": {"teachers": ["elsewhere"]}},
            {"word_kd": {}, "online": {"kind": "ema"}},
            {"encoder_layers_from_teacher": [0]},
        )
    ] == [False, True, False, False, False, True]


def test_monolingual_text_is_read_only_if_set() -> None:
    def read(**settings: Any) -> list[str]:
        return monolingual_splits(workspace(), SelfSupervised.model_validate(settings))

    assert read(monolingual=True) == ["monolingual.en-de.en"]
    assert read(denoising={}, text=["monolingual_target", "target"]) == ["monolingual.en-de.de"]
    assert read() == read(denoising={}) == monolingual_splits(workspace(), None) == []


@pytest.mark.usefixtures("finished")
def test_the_initial_checkpoint_is_an_input() -> None:
    (name, sha256), *more = init_inputs(job(train={"init_from": "runs/tiny/teacher/best"})).items()
    assert (name, more) == ("init_from runs/tiny/teacher/best", [])
    best = Path("runs/tiny/teacher") / Path("runs/tiny/teacher/best").read_text().strip()
    assert sha256 == file_sha256(best / "model.safetensors")
    assert init_inputs(job()) == {}


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("begin_from", "checkpoint"), [("best", "best"), ("last", "checkpoint_60"), (None, "average_best")]
)
def test_the_checkpoint_of_the_stage_before_is_an_input(begin_from: str | None, checkpoint: str) -> None:
    """A run of the teacher takes the place of the stage before."""
    run = Path("runs/tiny/teacher")
    (run / "best").write_text("checkpoint_40\n")
    choice = json.loads((run / "chosen.json").read_text())
    (run / "chosen.json").write_text(json.dumps(choice | {"checkpoint": "average_best"}))
    stage = job(before=run, **({} if begin_from is None else {"begin_from": begin_from}))
    expected = run / ("checkpoint_40" if checkpoint == "best" else checkpoint)
    assert stage.first_checkpoint == expected
    assert init_inputs(stage) == {"teacher": file_sha256(expected / "model.safetensors")}
