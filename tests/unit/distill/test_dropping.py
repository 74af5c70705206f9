"""The choice of pairs that are dropped for their scores, and their removal from the files of a training set."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest

from kdmt.distill.dropping import best_of, drop_pairs
from kdmt.distill.merge import MergeReport, Outputs


@pytest.mark.parametrize(
    ("scores", "percent", "dropped"),
    [
        ([3.0, 1.0, 2.0, 4.0], 25.0, [1]),
        ([3.0, 1.0, 2.0, 4.0], 49.0, [1]),  # rounded down
        ([3.0, 1.0, 2.0, 4.0], 50.0, [1, 2]),
        ([1.0, 1.0, 1.0, 1.0], 50.0, [2, 3]),  # of equal scores the later ones
        ([1.0, -np.inf, 2.0], 34.0, [1]),
        ([1.0], 99.0, []),
        ([], 50.0, []),
    ],
)
def test_the_lowest_scores_are_dropped(scores: list[float], percent: float, dropped: list[int]) -> None:
    assert np.flatnonzero(~best_of(np.array(scores), percent)).tolist() == dropped


def test_dropped_pairs_are_removed_from_all_files_and_noted_in_order(tmp_path: Path) -> None:
    files = Outputs(*(tmp_path / name for name in ("source", "target", "tags", "rejected", "choices")))
    files.source.write_text("a\nb\nb\nd\n")
    files.target.write_text("A\nB\nB2\nD\n")
    files.rejected.write_text("1\tempty\tdropped\n4\tcopied\treplaced by the reference\n")
    files.choices.write_text("columns\n0\n2a\n2b\n4\n")
    report = MergeReport(5, 4, indices=array("q", [0, 2, 2, 4]), of_teacher=bytearray([1, 1, 1, 0]))
    drop_pairs(files, report, np.array([True, False, True, False]), failure="quality")
    assert files.source.read_text() == "a\nb\n"
    assert files.target.read_text() == "A\nB2\n"
    assert files.choices.read_text() == "columns\n0\n2b\n"
    assert not files.tags.exists()
    assert files.rejected.read_text().splitlines() == [
        "1\tempty\tdropped",
        "2\tquality\tdropped",
        "4\tcopied\treplaced by the reference",
        "4\tquality\tdropped",
    ]
    assert (report.num_lines, report.failures["quality"], report.dropped["quality"]) == (2, 2, 2)
    assert (report.indices.tolist(), list(report.of_teacher)) == ([0, 2], [1, 1])
