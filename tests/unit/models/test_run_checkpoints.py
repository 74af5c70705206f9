"""The checkpoints of a run in their order, and the record of its average; empty folders with the right names."""

from __future__ import annotations

from pathlib import Path

from kdmt.models.run_checkpoints import (
    average_of,
    checkpoint_update,
    is_outdated,
    list_checkpoints,
    num_updates,
    write_average_of,
)


def make_folders(run: Path, *names: str) -> None:
    for name in names:
        (run / name).mkdir()


def test_checkpoints_are_listed_by_update_not_by_name(tmp_path: Path) -> None:
    make_folders(tmp_path, "checkpoint_10", "checkpoint_9", "checkpoint_100", "average")
    (tmp_path / "checkpoint_500.backup").mkdir()
    (tmp_path / "checkpoint_11").write_text("a file")
    assert [checkpoint_update(folder) for folder in list_checkpoints(tmp_path)] == [9, 10, 100]


def test_an_average_records_its_checkpoints_and_is_outdated_once_the_run_has_others(tmp_path: Path) -> None:
    make_folders(tmp_path, "checkpoint_8", "checkpoint_9", "average")
    write_average_of(tmp_path / "average", list_checkpoints(tmp_path))
    write_average_of(tmp_path, list_checkpoints(tmp_path))
    assert average_of(tmp_path / "average") == [8, 9]
    assert not is_outdated(tmp_path)
    make_folders(tmp_path, "checkpoint_10")
    write_average_of(tmp_path, list_checkpoints(tmp_path)[1:])
    assert is_outdated(tmp_path)


def test_the_length_of_a_run_is_its_newest_checkpoint(tmp_path: Path) -> None:
    make_folders(tmp_path, "checkpoint_9", "checkpoint_10")
    assert num_updates(tmp_path) == 10
