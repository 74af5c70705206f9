"""Plots of quality against speed with the Pareto frontier, as SVG text for a page or a file."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 50  # margins


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


def pareto_svg(points: Sequence[Point], *, speed_label: str, score_label: str = "BLEU", metric: str = "BLEU") -> str:
    """Return a plot with speed on a logarithmic x axis, scores on the y axis, and a line through the frontier.

    Args:
        points: one or more points.
        speed_label, score_label: labels of the axes, with their units.
        metric: name of the score in the description of a point.

    Raises:
        ValueError: if there are no points, or a speed is not above 0.
    """
    if not points or any(point.speed <= 0.0 for point in points):
        raise ValueError("a picture needs points, and speeds above 0")
    scale = _Scale.around(points)
    path = " ".join(f"{scale.x(each.speed):.1f},{scale.y(each.score):.1f}" for each in frontier(points))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
            f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">',
            *_axes(scale, speed_label, score_label),
            f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-dasharray="4 3" opacity="0.6"/>',
            *(_mark(scale, point, metric) for point in points),
            "</svg>",
        ]
    )


@dataclass(frozen=True)
class _Scale:
    """Ranges of both axes, which map values to positions in the plot."""

    slowest: float
    fastest: float
    lowest: float
    highest: float

    @classmethod
    def around(cls, points: Sequence[Point]) -> _Scale:
        """Return a scale that covers the points with a margin."""
        speeds, scores = [each.speed for each in points], [each.score for each in points]
        slowest, fastest = 10 ** math.floor(math.log10(min(speeds) / 1.2)), max(speeds) * 2.5
        return cls(slowest, fastest, 5 * math.floor(min(scores) / 5), 5 * math.floor(max(scores) / 5) + 5)

    def x(self, speed: float) -> float:
        share = math.log(speed / self.slowest) / math.log(self.fastest / self.slowest)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, score: float) -> float:
        share = (score - self.lowest) / (self.highest - self.lowest)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _axes(scale: _Scale, speed_label: str, score_label: str) -> Iterator[str]:
    base, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    yield f'<path d="M{_LEFT},{_TOP} V{base} H{right}" fill="none" stroke="currentColor"/>'
    for speed in _ticks(scale.slowest, scale.fastest):
        x = scale.x(speed)
        yield f'<path d="M{x:.1f},{base} v5" stroke="currentColor"/>'
        yield f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{speed:g}</text>'
    for score in range(int(scale.lowest), int(scale.highest) + 1, 5):
        y = scale.y(score)
        yield f'<path d="M{_LEFT},{y:.1f} h-5" stroke="currentColor"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{score}</text>'
    yield f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">{html.escape(speed_label)}</text>'
    middle = (_TOP + base) / 2
    label = html.escape(score_label)
    yield f'<text x="15" y="{middle}" text-anchor="middle" transform="rotate(-90 15 {middle})">{label}</text>'


def _ticks(low: float, high: float) -> Iterator[float]:
    """Yield the numbers in a range that are 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(low))
    while power <= high:
        yield from (times * power for times in (1, 2, 5) if low <= times * power <= high)
        power *= 10


def _mark(scale: _Scale, point: Point, metric: str) -> str:
    x, y = scale.x(point.speed), scale.y(point.score)
    anchor, shift = ("end", -7) if x > 0.75 * _WIDTH else ("start", 7)
    name, exact = html.escape(point.name), f"{point.score:.2f} {metric}, {point.speed:.1f} sentences/s"
    return (
        f'<g><title>{name}: {exact}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        f'<text x="{x + shift:.1f}" y="{y - 5:.1f}" text-anchor="{anchor}">{name}</text></g>'
    )
