"""Removal of pairs from the files of a merged training set, by a mask."""

from __future__ import annotations

import heapq
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.distill.merge import MergeReport, Outputs
from kdmt.files import atomic_file


def best_of(scores: NDArray[np.float64], drop_percent: float) -> NDArray[np.bool_]:
    """Return a mask that excludes the lowest `drop_percent` of scores; of equal scores, later ones are dropped first.

    The number of excluded scores is rounded down.
    """
    dropped = int(len(scores) * drop_percent / 100)
    is_kept = np.ones(len(scores), dtype=bool)
    order = np.argsort(-scores, kind="stable")
    is_kept[order[len(order) - dropped :]] = False
    return is_kept


def drop_pairs(files: Outputs, report: MergeReport, is_kept: NDArray[np.bool_], *, failure: str) -> None:
    """Keep only the pairs of the mask; note the others as dropped for a failure in the report and in `rejected`."""
    for path in (files.source, files.target, files.tags):
        if path.exists():
            _keep_lines(path, is_kept)
    if files.choices.exists():
        _keep_lines(files.choices, np.concatenate([[True], is_kept]))  # the first line has the names of the columns
    _note_dropped(files.rejected, report, is_kept, failure)
    report.keep(is_kept, failure=failure)


def _keep_lines(path: Path, is_kept: NDArray[np.bool_]) -> None:
    with atomic_file(path) as aside, path.open("rb") as source, aside.open("wb") as target:
        target.writelines(line for line, kept in zip(source, is_kept.tolist(), strict=True) if kept)


def _note_dropped(rejected: Path, report: MergeReport, is_kept: NDArray[np.bool_], failure: str) -> None:
    """Add dropped pairs to the file of rejected lines, which is sorted by line."""
    dropped = np.frombuffer(report.indices, dtype=np.int64)[~is_kept].tolist()
    with (
        atomic_file(rejected) as aside,
        rejected.open(encoding="utf-8") as before,
        aside.open("w", encoding="utf-8") as after,
    ):
        earlier = ((int(line.partition("\t")[0]), line) for line in before)
        ours = ((index, f"{index}\t{failure}\tdropped\n") for index in dropped)
        after.writelines(line for _, line in heapq.merge(earlier, ours))
