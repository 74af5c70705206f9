"""Tests of records of finished steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.corpus.steps import Steps


def test_only_the_files_of_finished_steps_remain(tmp_path: Path) -> None:
    steps = Steps(tmp_path, tmp_path / "steps")
    for name in ("made", "half", "kept"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "inner").touch()
    assert steps.values("a") is None
    steps.finish("a", {"count": 3}, [tmp_path / "made", tmp_path / "folder", tmp_path / "never written"])
    steps.finish("b", [], [])
    steps.remove_unfinished([tmp_path / "kept"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "kept", "made", "steps"]
    assert (tmp_path / "folder" / "inner").exists()
    again = Steps(tmp_path, tmp_path / "steps")
    assert (again.values("a"), again.values("b"), again.values("c")) == ({"count": 3}, [], None)


def test_without_records_everything_is_removed(tmp_path: Path) -> None:
    (tmp_path / "half").touch()
    Steps(tmp_path, tmp_path / "steps").remove_unfinished([])
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_was_being_written_is_removed(tmp_path: Path) -> None:
    steps = Steps(tmp_path, tmp_path / "steps")
    (tmp_path / "a").touch()
    steps.finish("a", {}, [tmp_path / "a"])
    (tmp_path / "steps" / ".partial-b.json").write_text('{"values"')
    steps.remove_unfinished([])
    assert sorted(path.name for path in steps.records.iterdir()) == ["a.json"]
    assert (tmp_path / "a").exists()


def test_a_step_with_a_file_of_another_size_is_not_finished(tmp_path: Path) -> None:
    steps = Steps(tmp_path, tmp_path / "steps")
    (tmp_path / "folder").mkdir()
    for name in ("a", "folder/b", "whole"):
        (tmp_path / name).write_text("text")
    steps.finish("step", {"count": 3}, [tmp_path / "a", tmp_path / "folder"])
    steps.finish("other", {}, [tmp_path / "whole"])
    assert steps.values("step") == {"count": 3}
    for name in ("a", "folder/b"):
        (tmp_path / name).write_text("")
        assert steps.values("step") is None
        (tmp_path / name).write_text("text")
    (tmp_path / "folder" / "b").unlink()
    assert steps.values("step") is None
    steps.remove_unfinished([])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["steps", "whole"]
    assert sorted(path.name for path in steps.records.iterdir()) == ["other.json"]


def test_a_record_of_an_earlier_version_has_no_sizes(tmp_path: Path) -> None:
    steps = Steps(tmp_path, tmp_path / "steps")
    steps.records.mkdir()
    (steps.records / "step.json").write_text('{"values": 3, "files": ["a"]}')
    assert steps.values("step") == 3


def test_files_are_on_the_disk_before_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(tmp_path, tmp_path / "steps")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").touch()
    (tmp_path / "a").touch()
    synced: list[Path] = []

    def sync(path: Path) -> None:
        assert not (steps.records / "step.json").exists()
        synced.append(path)

    monkeypatch.setattr("kdmt.corpus.steps.sync_to_disk", sync)
    steps.finish("step", {}, [tmp_path / "a", tmp_path / "folder"])
    assert synced == [tmp_path / "a", tmp_path / "folder" / "b", tmp_path, tmp_path / "folder"]
