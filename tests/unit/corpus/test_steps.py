"""Tests of records of finished steps."""

from __future__ import annotations

from pathlib import Path

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
