"""Tests of the tasks of forced decoding: files are split into pieces, and scores are cached by content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import write_lines

from kdmt.distill import pair_scores
from kdmt.distill.pair_scores import PairTask, open_scorer, pair_tasks, read_pair_scores
from kdmt.errors import UserError

SOURCES = [f"source {number}" for number in range(7)]
TARGETS = [f"target {number}" for number in range(7)]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_scores, "LINES_A_TASK", 3)


def tasks(folder: Path, targets: list[str] = TARGETS, **key: object) -> list[PairTask]:
    write_lines(folder / "source", SOURCES)
    write_lines(folder / "target", targets)
    return pair_tasks(folder / "source", folder / "target", folder, key=key)


def test_pieces_hold_all_lines_in_order(tmp_path: Path) -> None:
    found = tasks(tmp_path)
    assert [(task.number, task.count) for task in found] == [(0, 3), (1, 3), (2, 1)]
    assert [line for task in found for line in task.source.read()] == SOURCES
    assert [line for task in found for line in task.target.read()] == TARGETS


def test_path_of_scores_depends_on_model_and_content(tmp_path: Path) -> None:
    before = [task.out for task in tasks(tmp_path, model="a")]
    edited = [*TARGETS[:4], "other", *TARGETS[5:]]
    after = [task.out for task in tasks(tmp_path, edited, model="a")]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    assert not set(before) & {task.out for task in tasks(tmp_path, model="b")}


def test_scores_are_read_in_the_order_of_the_lines(tmp_path: Path) -> None:
    found = tasks(tmp_path)
    for task in found:
        np.save(task.out, np.full((task.count, 2), float(task.number)))
    assert read_pair_scores(found)[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert read_pair_scores([]).shape == (0, 2)


def test_files_of_different_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        tasks(tmp_path, TARGETS[:-1])


def test_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a checkpoint folder nor a run that has one"):
        open_scorer(tmp_path / "nowhere", tmp_path / "engine", compute_type="float32", raw=True)
    assert not (tmp_path / "engine").exists()


@pytest.mark.usefixtures("finished")
def test_a_checkpoint_is_exported_once(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    scorer = open_scorer(Path("runs/tiny/teacher"), engine, compute_type="float32", raw=False)
    assert scorer.folder == engine
    made = {path: path.stat().st_mtime_ns for path in engine.iterdir()}
    assert open_scorer(Path("runs/tiny/teacher"), engine, compute_type="float32", raw=False) == scorer
    assert {path: path.stat().st_mtime_ns for path in engine.iterdir()} == made
    assert open_scorer(engine, tmp_path / "again", compute_type="float32", raw=False).folder == engine
    assert not (tmp_path / "again").exists()
