"""Counts of the lines of a training set by direction and by the origin of their targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from kdmt.corpus.lines import iterate_lines

PIVOTS = "pivots.tsv"  # intermediate text of candidates, if a teacher translates through a pivot language


def count_directions(tags: Path, of_teacher: bytes | bytearray) -> dict[str, dict[str, int]]:
    """Return direction -> number of lines with a target of the teacher and with the original target.

    Args:
        tags: file with the direction of each line of a training set.
        of_teacher: for each line, 1 if its target is the teacher's, else 0.
    """
    found: dict[str, dict[str, int]] = {}
    for tag, is_of_teacher in zip(iterate_lines(tags), of_teacher, strict=True):
        counts = found.setdefault(tag, {"teacher": 0, "original": 0})
        counts["teacher" if is_of_teacher else "original"] += 1
    return found


def describe_directions(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield a line of text with the counts of each direction."""
    for direction, own in counts.items():
        yield f"{direction}: {own['teacher']:,} targets of the teacher, {own['original']:,} original targets"
