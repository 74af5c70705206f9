"""References of distilled lines, and distances that are computed in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from copy_task import write_pairs

from kdmt.config import Decode, Selective
from kdmt.corpus.batching import ParallelData, join_data
from kdmt.errors import UserError
from kdmt.ranks import ALONE, Ranks
from kdmt.stages import selective_work
from kdmt.stages.selective_work import measure, open_selection
from kdmt.stages.workspace import Workspace
from kdmt.train.run_log import Progress
from kdmt.train.target_selection import TargetSelection
from kdmt.types import Hypothesis

SETTINGS = Selective(distilled=[(0, 0.5)])
# the training text, and what the distill stage leaves of it: line 1 dropped, line 3 is monolingual
RAW = [([4], [7, 8]), ([5, 5], [7]), ([6, 6, 6], [8, 8, 8, 8])]
DISTILLED = [([4], [7]), ([6, 6, 6], [8, 8]), ([9, 9], [9])]


class Copying:
    """An evaluator whose translation is the source; it counts the sentences."""

    max_source_positions = 20

    def __init__(self) -> None:
        self.count = 0

    def decode(self, sources: Sequence[np.ndarray], _: Decode) -> list[list[Hypothesis]]:
        self.count += len(sources)
        return [[Hypothesis(tuple(source[:-1].tolist()), 0.0)] for source in sources]


@pytest.fixture
def sets(tmp_path: Path) -> tuple[ParallelData, ParallelData]:
    for name in ("distilled", "raw"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "distilled" / "sentences.npy", np.arange(4))
    (tmp_path / "distilled" / "rejected").write_text("0\tunk\tkept\n1\tcopied\tdropped\n")
    return write_pairs(tmp_path / "distilled", DISTILLED), write_pairs(tmp_path / "raw", RAW)


def opened(folder: Path, sets: tuple[ParallelData, ParallelData], *, limit: int = 0) -> TargetSelection:
    workspace = cast(Workspace, SimpleNamespace(training_set=lambda name: folder / name))
    return open_selection(workspace, SETTINGS, *sets, max_target_tokens=limit)


def test_references_are_those_of_the_lines_that_were_not_dropped(
    tmp_path: Path, sets: tuple[ParallelData, ParallelData]
) -> None:
    assert opened(tmp_path, sets).second.tolist() == [3, 5, -1]
    assert opened(tmp_path, sets, limit=5).second.tolist() == [3, 5, -1]
    assert opened(tmp_path, sets, limit=4).second.tolist() == [3, -1, -1]  # the second has five tokens with </s>


@pytest.mark.parametrize(
    ("rejected", "message"),
    [("", "rejected leaves 4 lines, and its data-bin has 3 pairs"), ("0\tunk\tdropped\n", "its sources are not those")],
)
def test_lines_that_do_not_match_are_refused(
    tmp_path: Path, sets: tuple[ParallelData, ParallelData], rejected: str, message: str
) -> None:
    (tmp_path / "distilled" / "rejected").write_text(rejected)
    with pytest.raises(UserError, match=message):
        opened(tmp_path, sets)


def test_distances_are_kept_in_blocks_that_are_not_computed_again(
    tmp_path: Path, sets: tuple[ParallelData, ParallelData], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Copying()
    monkeypatch.setattr(selective_work, "_LINES_IN_A_BLOCK", 2)
    monkeypatch.setattr(selective_work, "NATEngine", lambda *_, **__: evaluator)

    def run(ranks: Ranks = ALONE) -> TargetSelection:
        selection, progress = opened(tmp_path, sets), Progress(None, name="test")
        options: dict[str, Any] = {"device": torch.device("cpu"), "ranks": ranks, "progress": progress}
        measure(tmp_path, cast(Any, evaluator), selection, join_data(sets), **options)
        return selection

    selection = run()
    blocks = [np.load(tmp_path / "selective" / f"{number:06d}.npy").tolist() for number in range(2)]
    # [4] and [7, 8]: 2 edits of 2 tokens; [6, 6, 6] and [8, 8, 8, 8]: 4 of 4; no reference
    assert blocks == [[1.0, 1.0], [np.inf]]
    assert evaluator.count == 2
    assert selection.choose(np.arange(3), 0).tolist() == [3, 1, 2]  # half of three lines: one
    np.save(tmp_path / "selective" / "000000.npy", np.array([0.75, 0.5], dtype=np.float32))
    assert run().choose(np.arange(3), 0).tolist() == [0, 5, 2]
    assert evaluator.count == 2
    (tmp_path / "selective" / "000000.npy").unlink()
    run()
    assert evaluator.count == 4
