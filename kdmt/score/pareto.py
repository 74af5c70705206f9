"""The Pareto frontier of systems by quality and speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """Speed and score of a system."""

    name: str
    speed: float  # sentences/s, above 0
    score: float  # value of the main metric


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point dominates, in order of decreasing speed."""
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (-each.speed, -each.score)):
        if not found or point.score > found[-1].score:
            found.append(point)
    return found
