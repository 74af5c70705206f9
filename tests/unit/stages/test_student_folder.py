"""The folder of a student in stages: read as the run of its last stage, and never mixed with a run without stages."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from tiny_pipeline import hash_tree, kdmt
from training_runs import RAW, STILL, metrics, results, student

from kdmt.errors import UserError
from kdmt.files import write_json
from kdmt.flow.manifest import Plan
from kdmt.flow.stage import locked
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.stages.student_folder import at_work_on, point_to

OLD, NEW = Plan({"lr": 1}, {}, {}), Plan({"lr": 2}, {}, {})


def a_run(folder: Path, text: str) -> Path:
    """Make a folder with the files by which a checkpoint of a run is found."""
    checkpoint = folder / "checkpoint_1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_text(text)
    (checkpoint / "model.json").write_text("{}")
    (folder / "last").write_text("checkpoint_1\n")
    return folder


def test_the_folder_of_a_student_is_read_as_the_last_stage(tmp_path: Path) -> None:
    first, second = (a_run(tmp_path / "seed_1" / name, name) for name in ("stage_1", "stage_2"))
    with pytest.raises(UserError, match="neither a checkpoint folder nor a run"):
        resolve_checkpoint(tmp_path / "seed_1")
    for run in (second, first):
        point_to(run)
        for name in ("", "last", "checkpoint_1", "auto"):
            assert resolve_checkpoint(tmp_path / "seed_1" / name) == run / "checkpoint_1"
        with pytest.raises(UserError, match="neither a checkpoint folder nor a run"):
            resolve_checkpoint(tmp_path / "seed_1/best")


def test_a_run_without_stages_is_renamed_and_the_stage_stays_locked(tmp_path: Path) -> None:
    folder, said = a_run(tmp_path / "seed_1", "before"), []
    write_json(folder / "manifest.json", OLD.as_dict() | {"outputs": {}})
    before, run = hash_tree(folder), folder / "stage_1"
    with locked(run), at_work_on(run, NEW, said.append):
        run.mkdir(parents=True)
        with pytest.raises(UserError, match="another process is at work"), locked(run):
            pass
        with pytest.raises(UserError, match="another process is at work"), locked(folder):
            pass
    assert said == [f"{folder}: the run of the student without stages is kept as {folder}.previous"]
    kept = hash_tree(folder.with_name("seed_1.previous"))
    assert {name: kept[name] for name in before} == before
    assert sorted(path.name for path in folder.iterdir()) == [".stage_1.lock", "stage_1"]
    with locked(run), at_work_on(run, NEW, said.append):
        pass
    assert len(said) == 1


def test_a_student_that_is_trained_without_stages_is_left_alone(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "seed_1", "now")
    (folder / "plan.json").write_text("{}")
    before = hash_tree(folder)
    with (
        locked(folder),
        pytest.raises(UserError, match="another process is at work"),
        at_work_on(folder / "stage_1", NEW, print),
    ):
        pass
    assert hash_tree(folder) == before


@pytest.mark.parametrize("record", ["manifest.json", "plan.json"])
def test_a_run_without_stages_that_was_made_from_the_plan_of_the_stage_becomes_its_run(
    tmp_path: Path, record: str
) -> None:
    folder, said = a_run(tmp_path / "seed_1", "before"), []
    write_json(folder / record, OLD.as_dict() | {"outputs": {}})
    before, run = hash_tree(folder), folder / "stage_1"
    with locked(run), at_work_on(run, OLD, said.append):
        assert hash_tree(run) == before
        with pytest.raises(UserError, match="another process is at work"), locked(run):
            pass
    aside = folder.with_name(f"seed_1.{'previous' if record == 'manifest.json' else 'unfinished'}")
    assert said == [
        f"{folder}: the run of the student without stages is kept as {aside}",
        f"{run}: taken back from {aside}, which was made with these settings",
    ]
    assert not aside.exists()
    assert not folder.with_name("seed_1.previous").exists()


@pytest.mark.parametrize("step", ["locked", "put_in_place"])
def test_a_run_without_stages_is_found_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder, said = a_run(tmp_path / "seed_1", "before"), []
    write_json(folder / "manifest.json", OLD.as_dict() | {"outputs": {}})
    before, run = hash_tree(folder), folder / "stage_1"
    with monkeypatch.context() as patch:

        def stop(path: Path, *_: object, **__: object) -> ExitStack:
            if step == "locked" and path == folder and folder.exists():
                return ExitStack()  # the first lock, before the run is moved
            raise KeyboardInterrupt

        patch.setattr(f"kdmt.stages.student_folder.{step}", stop)
        with locked(run), pytest.raises(KeyboardInterrupt), at_work_on(run, OLD, said.append):
            pass
    assert not run.exists()
    with locked(run), at_work_on(run, OLD, said.append):
        found = hash_tree(run)
    assert {name: found[name] for name in before} == before


@pytest.mark.usefixtures("finished")
def test_a_trained_student_gets_stages_after_its_training() -> None:
    """Check that the training so far is not repeated."""
    made = results(RAW)
    result = student("raw", "students.raw.stages=[{}, {lr: 0.005}]")
    assert result.code == 0, result.err
    previous = RAW.with_name("seed_1.previous")
    assert f"{RAW}/stage_1: taken back from {previous}, which was made with these settings\n" in result.err
    assert results(RAW / "stage_1") == made
    assert [line["update"] for line in metrics(RAW / "stage_1", "train")] == [1, 2, 3, 4]
    assert "stage 1: up to date, nothing to do" in student("raw", "students.raw.stages=[{}, {lr: 0.005}]").err


@pytest.mark.usefixtures("finished")
def test_a_student_gets_other_stages_has_fewer_and_has_none_again() -> None:
    alone = hash_tree(RAW)
    still = ", ".join(setting.replace("=", ": ") for setting in STILL)
    stages = f"students.raw.stages=[{{lr: 0.02}}, {{{still}}}]"
    result = student("raw", stages)
    assert f"{RAW}: the run of the student without stages is kept as {RAW}.previous\n" in result.err
    kept = hash_tree(RAW.with_name("seed_1.previous"))
    assert {name: kept[name] for name in alone} == alone
    assert resolve_checkpoint(RAW).parent == RAW / "stage_2"
    assert kdmt("translate", RAW, stdin=b"ba be\n").out == kdmt("translate", RAW / "stage_2", stdin=b"ba be\n").out

    assert "stage 1: up to date, nothing to do" in student("raw", "students.raw.stages=[{lr: 0.02}]").err
    assert resolve_checkpoint(RAW).parent == RAW / "stage_1"
    assert "stage 2: up to date, nothing to do" in student("raw", stages).err
    assert resolve_checkpoint(RAW).parent == RAW / "stage_2"

    result = student("raw")
    assert "student raw seed 1: taken back from seed_1.previous" in result.err
    found = hash_tree(RAW)
    assert {name: found[name] for name in alone} == alone
    assert (RAW.with_name("seed_1.unfinished") / "stage_2/manifest.json").is_file()

    result = student("raw", stages)
    for number in (1, 2):
        place = f"{RAW}/stage_{number}: taken back from {RAW.with_name('seed_1.unfinished')}/stage_{number}"
        assert place in result.err
    assert ": validation at " not in result.err
