"""Tests of the counts of a training set by direction."""

from __future__ import annotations

from pathlib import Path

from tiny_pipeline import write_lines

from kdmt.distill.direction_counts import count_directions, describe_directions


def test_lines_are_counted_by_direction_and_origin(tmp_path: Path) -> None:
    write_lines(tmp_path / "tags", ["en-de", "en-fr", "en-de", "en-de"])
    counts = count_directions(tmp_path / "tags", bytearray(b"\1\0\0\1"))
    assert counts == {"en-de": {"teacher": 2, "original": 1}, "en-fr": {"teacher": 0, "original": 1}}
    assert next(iter(describe_directions(counts))) == "en-de: 2 targets of the teacher, 1 original targets"
