"""The checkpoints of a run that are kept, those of its average, and its pointers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from copy_task import make_model, train_settings

from kdmt.errors import UserError
from kdmt.models.average_record import is_outdated, wanted_of, write_wanted_of
from kdmt.models.averages import renew_average
from kdmt.models.checkpoint import load_state
from kdmt.models.checkpoint_folder import checkpoint_update, list_checkpoints, resolve_checkpoint
from kdmt.train.run_folder import Position, RunFolder, Validated

MODEL = make_model()
WEIGHTS = dict(MODEL.named_parameters())


def folder_of(run: Path, **settings: int) -> RunFolder:
    run.mkdir(exist_ok=True)
    defaults = {"max_updates": 15, "validate_interval_updates": 4, "average_checkpoints": 2}
    return RunFolder(run, train_settings(**{**defaults, **settings}), [])


def save(folder: RunFolder, updates: Mapping[int, int | None]) -> None:
    """Save checkpoints at these updates, each with the best update so far."""
    for update, best in updates.items():
        folder.save(MODEL, Position(update=update, best_update=best), weights=WEIGHTS, tensors={})


def updates_of(folder: RunFolder) -> list[int]:
    return [checkpoint_update(each) for each in list_checkpoints(folder.path)]


def test_the_best_those_of_the_average_and_two_to_resume_from_are_kept(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    save(folder, {1: None, 2: None, 3: None, 4: 4, 8: 4, 12: 4, 13: 4, 14: 4, 15: 4})
    assert updates_of(folder) == [4, 12, 14, 15]
    assert resolve_checkpoint(folder.path / "best").name == "checkpoint_4"
    assert resolve_checkpoint(folder.path / "last").name == "checkpoint_15"


def test_the_best_checkpoints_are_kept_and_recorded(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    best = [Validated(8, 1.0, 1.0), Validated(4, 2.0, None)]
    for update in (4, 8, 12, 13, 14, 15):
        position = Position(update=update, best_update=8, best_validations=best)
        folder.save(MODEL, position, weights=WEIGHTS, tensors={})
    assert updates_of(folder) == [4, 8, 12, 14, 15]
    assert [checkpoint_update(each) for each in folder.best_checkpoints(position)] == [4, 8]
    assert wanted_of(folder.path, "average_best") == [4, 8]
    assert wanted_of(folder.path, "average") == [12, 15]
    assert Position(**load_state(folder.folder_of(15)).values).best_update == 8


def test_records_of_averages_that_are_missing_after_a_kill_are_written(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    save(folder, {4: 4, 8: 8})
    (folder.path / "average_best_of").unlink()
    position = Position(update=8, best_update=8, best_validations=[Validated(8, 1.0, 1.0), Validated(6, 2.0, 1.0)])
    folder.mend_pointers(folder.path / "checkpoint_8", position)
    assert wanted_of(folder.path, "average_best") == [8]  # checkpoint 6 does not exist


def test_the_last_checkpoints_take_the_place_of_the_best_ones_if_all_of_these_are_damaged(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    position = Position(update=12, best_update=4, best_validations=[Validated(4, 1.0, 1.0)])
    for update in (4, 8, 12):
        folder.save(MODEL, replace(position, update=update), weights=WEIGHTS, tensors={})
    (folder.path / "checkpoint_4" / "model.json").write_text("{}")
    folder.path.joinpath("checkpoint_4").rename(folder.path / "damaged-checkpoint_4")
    folder.mend_pointers(folder.path / "checkpoint_12", position)
    assert wanted_of(folder.path, "average_best") == [8, 12]
    folder.write_averages(MODEL, position)
    assert not is_outdated(folder.path, "average_best")
    write_wanted_of(folder.path, [], "average_best")  # as earlier versions did
    with pytest.raises(UserError, match=r"average_best: older than .* cannot be rebuilt .*all checkpoints .* damaged"):
        renew_average(folder.path, "average_best")


@pytest.mark.parametrize(("updates", "counted"), [([3, 4, 7], [4]), ([4, 8, 12, 13], [8, 12]), ([8, 12, 15], [12, 15])])
def test_an_average_uses_checkpoints_of_validations_and_the_last_update(
    tmp_path: Path, updates: list[int], counted: list[int]
) -> None:
    folder = folder_of(tmp_path / "run")
    save(folder, dict.fromkeys(updates))
    assert [checkpoint_update(each) for each in folder.averaged()] == counted


def test_a_saved_position_is_loaded(tmp_path: Path) -> None:
    folder, position = folder_of(tmp_path / "run"), Position(update=4, epoch=2, loss_sums={"loss": 1.5})
    saved = folder.save(MODEL, position, weights=WEIGHTS, tensors={"random.0.cpu": torch.arange(3)})
    assert Position(**load_state(saved).values) == position


def test_cleaning_up_renames_damaged_checkpoints_and_removes_partial_ones(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    save(folder, {3: None, 4: None})
    (folder.path / "checkpoint_4" / "model.json").write_text("{}")
    (folder.path / ".partial-checkpoint_5").mkdir()
    newest, (problem,) = folder.clean_up()
    assert newest == folder.path / "checkpoint_3"
    assert problem.endswith("(kept as damaged-checkpoint_4)")
    assert sorted(path.name for path in folder.path.glob("*checkpoint*")) == ["checkpoint_3", "damaged-checkpoint_4"]


def test_the_last_good_checkpoint_is_before_the_failed_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    assert folder.last_good(None) is None
    save(folder, {3: None, 4: None})
    assert folder.last_good(4) == folder.path / "checkpoint_3"
    assert folder.last_good(None) == folder.path / "checkpoint_4"


def test_pointers_that_are_missing_after_a_kill_are_written(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    save(folder, {4: 4, 8: 4})
    (folder.path / "last").write_text("checkpoint_4\n")
    (folder.path / "best").unlink()
    folder.mend_pointers(folder.path / "checkpoint_8", Position(update=8, best_update=4))
    assert resolve_checkpoint(folder.path / "last").name == "checkpoint_8"
    assert resolve_checkpoint(folder.path / "best").name == "checkpoint_4"
