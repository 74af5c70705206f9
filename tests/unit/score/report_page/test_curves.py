"""Curves from the logs of runs."""

from __future__ import annotations

import json
from pathlib import Path

from kdmt.score.report_page.curves import MAX_POINTS, Curve, join_seeds, read_curves


def write_log(path: Path, *records: dict[str, object], rest: str = "") -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records) + rest, encoding="utf-8")
    return path


def test_a_curve_is_the_mean_of_the_seeds_that_have_a_value_with_their_range(tmp_path: Path) -> None:
    first = write_log(
        tmp_path / "1",
        {"kind": "valid", "update": 10, "nll": 4.0},
        {"kind": "train", "update": 10, "nll": 9.0},
        {"kind": "valid", "update": 20, "nll": 2.0},
        {"kind": "valid", "update": 30, "nll": 1.0},
    )
    second = write_log(
        tmp_path / "2", {"kind": "valid", "update": 10, "nll": 6.0}, {"kind": "valid", "update": 20, "nll": 3.0}
    )
    runs = {"small": [first, second], "never": [tmp_path / "3"]}
    assert read_curves(runs, "valid", "nll") == [
        Curve("small", [10, 20, 30], [5.0, 2.5, 1.0], [4.0, 2.0, 1.0], [6.0, 3.0, 1.0], 2)
    ]
    assert read_curves(runs, "train", "nll") == [Curve("small", [10], [9.0], [9.0], [9.0], 1)]
    assert read_curves(runs, "valid", "bleu") == []


def test_lines_that_are_no_records_and_values_that_are_not_finite_are_skipped(tmp_path: Path) -> None:
    rest = '[1]\n{"kind": "valid", "update": "7", "nll": 1}\n{"kind": "valid", "update": 8, "nll": NaN}\n{"kind": "va'
    log = write_log(tmp_path / "1", {"kind": "valid", "update": 5, "nll": 3}, rest=rest)
    (curve,) = read_curves({"x": [log]}, "valid", "nll")
    assert (curve.updates, curve.means) == ([5], [3.0])


def test_a_later_record_of_an_update_replaces_an_earlier_one(tmp_path: Path) -> None:
    log = write_log(tmp_path / "1", *({"kind": "valid", "update": 5, "nll": value} for value in (3, 2)))
    assert read_curves({"x": [log]}, "valid", "nll")[0].means == [2.0]


def test_a_long_curve_is_thinned_out_and_keeps_its_ends() -> None:
    curve = join_seeds("x", [{update: float(update) for update in range(1, 10_001)}])
    assert len(curve.updates) == MAX_POINTS
    assert (curve.updates[0], curve.updates[-1]) == (1, 10_000)
    assert curve.means == list(map(float, curve.updates))
