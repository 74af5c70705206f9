"""Placement of the labels of points so that no label covers another one, a point or the border of the plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES = (4.0, 10.0, 18.0, 28.0)  # from the edge of a point to its label


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        """Return whether two rectangles have a part in common."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def is_inside(self, other: Box) -> bool:
        """Return whether this rectangle is a part of another one."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.bottom >= other.bottom
            and self.top <= other.top
        )


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    bounds: Box,
    radius: float,
) -> list[Box | None]:
    """Return the place of each label, in order of priority: earlier labels are placed first.

    Args:
        points: positions of the points [N].
        sizes: width and height of the labels of the first points [L]; L is at most N.
        bounds: rectangle in which all labels must be.
        radius: radius of a point.

    Returns:
        A rectangle for each label; None for a label that has no free place near its point.
    """
    marks = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    taken: list[Box] = []
    found: list[Box | None] = []
    for point, size in zip(points, sizes, strict=False):
        free = (
            box
            for box in _places(point, size, radius)
            if box.is_inside(bounds) and not any(map(box.overlaps, marks)) and not any(map(box.overlaps, taken))
        )
        place = next(free, None)
        found.append(place)
        if place is not None:
            taken.append(place)
    return found


def _places(point: tuple[float, float], size: tuple[float, float], radius: float) -> Iterator[Box]:
    """Yield the places around a point, the nearest first."""
    (x, y), (width, height) = point, size
    for distance in _DISTANCES:
        shift = radius + distance
        for right, up in _DIRECTIONS:
            center_x = x + right * (shift + width / 2)
            center_y = y + up * (shift + height / 2)
            yield Box(center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2)
