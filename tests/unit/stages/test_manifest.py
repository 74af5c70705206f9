"""What a stage was made from against what it would be made from: content decides, and every change is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny_pipeline import hash_tree

from kdmt.checksum import known_sha256
from kdmt.config import Section, Teacher, Train
from kdmt.stages.manifest import (
    Plan,
    begin,
    check_status,
    earlier_states,
    finish,
    make_plan,
    recorded_outputs,
    recorded_plan,
    take_back,
    write_json,
)

INPUTS = {"train.en": "1" * 64, "train.de": "2" * 64}


def plan_of(teacher: Section | None = None, inputs: dict[str, str] = INPUTS, **extra: object) -> Plan:
    return make_plan({"teacher": teacher or Teacher()}, extra, inputs)


LONGER = plan_of(Teacher(train=Train(max_updates=200_000)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stage's folder, complete, made from `plan_of()`."""
    folder = tmp_path / "teacher"
    begin(folder, plan_of(), {"name": "tiny"})
    (folder / "model").write_text("weights", encoding="utf-8")
    (folder / "sub").mkdir()
    (folder / "sub" / "notes").write_text("notes", encoding="utf-8")
    finish(folder, plan_of(), outputs=[folder / "model", folder / "sub" / "notes"], facts={"updates": 5})
    return folder


def test_a_complete_folder_is_fresh(folder: Path) -> None:
    assert check_status(folder, plan_of()).state == "fresh"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "manifest.json", "model", "sub"]
    assert recorded_outputs(folder) == {name: known_sha256(folder / name) for name in ("model", "sub/notes")}


def test_a_folder_without_a_record_is_new(tmp_path: Path) -> None:
    assert check_status(tmp_path / "none", plan_of()).state == "new"
    (tmp_path / ".partial-manifest.json").write_text("{", encoding="utf-8")  # a write that was killed
    assert check_status(tmp_path, plan_of()).state == "new"
    assert recorded_plan(tmp_path) is None
    assert recorded_outputs(tmp_path) == {}


def test_a_folder_that_was_begun_is_unfinished(tmp_path: Path) -> None:
    begin(tmp_path / "a", plan_of(), {})
    assert check_status(tmp_path / "a", plan_of()).state == "unfinished"
    assert recorded_outputs(tmp_path / "a") == {}
    assert check_status(tmp_path / "a", plan_of(Teacher(seed=2))).state == "stale"


def test_file_times_mean_nothing(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    assert check_status(folder, plan_of()).state == "fresh"


def test_a_result_setting_that_changed_is_named_with_both_values(folder: Path) -> None:
    status = check_status(folder, plan_of(Teacher(seed=7, train=Train(lr=0.25))))
    assert status.state == "stale"
    assert status.reasons == [
        "the setting teacher.seed changed from 1 to 7",
        "the setting teacher.train.lr changed from 0.0005 to 0.25",
    ]


def test_an_extend_setting_goes_on(folder: Path) -> None:
    status = check_status(folder, LONGER)
    assert status.state == "extend"
    assert status.explain() == "the setting teacher.train.max_updates changed from 100000 to 200000"


def test_an_extend_setting_does_not_go_back(folder: Path) -> None:
    status = check_status(folder, plan_of(Teacher(train=Train(max_updates=5))))
    assert status.state == "stale"
    assert status.explain() == "the setting teacher.train.max_updates was lowered from 100000 to 5"


def test_a_result_setting_weighs_more_than_an_extend_setting(folder: Path) -> None:
    assert check_status(folder, plan_of(Teacher(seed=7, train=Train(max_updates=200_000)))).state == "stale"


def test_an_execution_setting_changes_nothing(folder: Path) -> None:
    changed = Train(threads=3, device="cpu", save_interval_updates=1, log_interval_updates=1, tensorboard=True)
    assert plan_of(Teacher(train=changed)).as_dict() == plan_of().as_dict()
    assert check_status(folder, plan_of(Teacher(train=changed))).state == "fresh"


def test_inputs_that_changed_came_or_went_are_named(folder: Path) -> None:
    status = check_status(folder, plan_of(inputs={"train.en": "3" * 64, "tags": "4" * 64}))
    assert status.state == "stale"
    assert status.reasons == [
        "the input tags is new",
        "the input train.de is gone",
        "the input train.en changed",
    ]


def test_an_output_that_changed_or_is_missing_is_named(folder: Path) -> None:
    (folder / "model").write_text("other weights", encoding="utf-8")
    (folder / "sub" / "notes").unlink()
    status = check_status(folder, plan_of())
    assert status.state == "unfinished"  # it is made again from the checkpoints or blocks that are there
    assert status.reasons == ["its output model was changed", "its output sub/notes is missing"]


def edit_record(folder: Path, edit: object) -> None:
    record = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    edit(record)  # type: ignore[operator]
    (folder / "manifest.json").write_text(json.dumps(record), encoding="utf-8")


def test_a_setting_that_an_old_record_does_not_know_counts_as_its_default(folder: Path) -> None:
    def forget(record: dict) -> None:
        del record["settings"]["teacher.train.label_smoothing"]
        del record["extend"]["teacher.train.max_updates"]

    edit_record(folder, forget)
    assert check_status(folder, plan_of()).state == "fresh"
    status = check_status(folder, plan_of(Teacher(train=Train(label_smoothing=0.0))))
    assert status.reasons == ["the setting teacher.train.label_smoothing changed from 0.1 to 0.0"]
    assert check_status(folder, plan_of(Teacher(train=Train(max_updates=200_000)))).state == "extend"


def test_a_setting_without_a_default_is_new_to_an_old_record(folder: Path) -> None:
    assert check_status(folder, plan_of(seed=3)).reasons == ["the setting seed is new"]


def test_a_setting_that_is_no_more_is_named(folder: Path) -> None:
    edit_record(folder, lambda record: record["settings"].update({"teacher.train.old": 1}))
    assert check_status(folder, plan_of()).reasons == ["the setting teacher.train.old is gone"]


def test_values_that_json_writes_otherwise_are_equal(tmp_path: Path) -> None:
    plan = plan_of(Teacher(train=Train(adam_betas=(0.9, 0.5))))  # a tuple, a list in JSON
    begin(tmp_path / "a", plan, {})
    finish(tmp_path / "a", plan, outputs=[], facts={})
    assert check_status(tmp_path / "a", plan).state == "fresh"
    assert recorded_plan(tmp_path / "a") == Plan(**plan.as_dict())


# ----------------------------------------------------------------------------------------------------- begin and finish


def test_redoing_keeps_the_last_complete_state_under_previous(folder: Path) -> None:
    before = hash_tree(folder)
    previous, unfinished = (folder.with_name(f"teacher.{ending}") for ending in ("previous", "unfinished"))
    begin(folder, plan_of(Teacher(seed=2)), {})
    assert hash_tree(previous) == before
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "plan.json"]

    for seed in (3, 4):  # false starts take the place of one another, and of no complete state
        false_start = hash_tree(folder)
        begin(folder, plan_of(Teacher(seed=seed)), {})
        assert hash_tree(unfinished) == false_start
        assert hash_tree(previous) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["teacher", previous.name, unfinished.name]
    assert earlier_states(folder) == [unfinished, previous]

    finish(folder, plan_of(Teacher(seed=4)), outputs=[], facts={})
    second = hash_tree(folder)
    begin(folder, plan_of(Teacher(seed=5)), {})
    assert hash_tree(previous) == second


def test_a_state_that_fits_again_is_taken_back(folder: Path) -> None:
    """Nobody loses a teacher to a typo that was mended."""
    made = hash_tree(folder)
    assert take_back(folder, plan_of(Teacher(seed=2))) is None
    begin(folder, plan_of(Teacher(seed=2)), {})
    mistake = hash_tree(folder)
    assert take_back(folder, plan_of()) == folder.with_name("teacher.previous")
    assert hash_tree(folder) == made
    assert check_status(folder, plan_of()).state == "fresh"
    assert hash_tree(folder.with_name("teacher.unfinished")) == mistake
    assert take_back(folder, plan_of(Teacher(seed=2))) == folder.with_name("teacher.unfinished")
    assert hash_tree(folder) == mistake
    assert hash_tree(folder.with_name("teacher.previous")) == made
    assert not list(folder.parent.glob("*taken-back"))


@pytest.mark.parametrize("unfinished", [True, False])
def test_going_on_keeps_what_is_there(folder: Path, unfinished: bool) -> None:
    if unfinished:
        (folder / "manifest.json").rename(folder / "plan.json")
    begin(folder, LONGER, {})
    assert (folder / "model").read_text(encoding="utf-8") == "weights"
    assert not earlier_states(folder)
    assert check_status(folder, LONGER).state == "unfinished"


def test_a_folder_that_nothing_is_known_of_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "somebodys").write_text("file", encoding="utf-8")
    begin(tmp_path / "a", plan_of(), {})
    assert (tmp_path / "a.unfinished" / "somebodys").is_file()


def test_a_kill_at_any_write_of_begin_leaves_a_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that is to be trained further must never look as if it had not been begun."""
    for step in ("replace", "unlink"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, step, _raise)
            with pytest.raises(InterruptedError):
                begin(folder, LONGER, {})
        assert check_status(folder, LONGER).state in ("extend", "unfinished")
        assert (folder / "model").is_file()


def _raise(*_: object, **__: object) -> None:
    raise InterruptedError


def test_what_is_written_depends_on_the_content_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        begin(tmp_path / name, plan_of(), {"x": 1})
        (tmp_path / name / "out").write_text("same", encoding="utf-8")
        finish(tmp_path / name, plan_of(), outputs=[tmp_path / name / "out"], facts={"bleu": 1.5})
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "b")
    record = json.loads((tmp_path / "a" / "manifest.json").read_text(encoding="utf-8"))
    assert record["facts"] == {"bleu": 1.5}
    assert set(record["versions"]) == {"kdmt", "numpy", "sacrebleu", "sentencepiece", "subword-nmt", "torch"}


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"umlaut": "ä"})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"umlaut": "ä"}


def test_a_changed_file_has_another_hash_in_the_same_process(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    first = known_sha256(path)
    path.write_bytes(b"22")
    assert known_sha256(path) != first
