"""A picture of quality against speed: which systems no other beats in both. SVG text, for a page or a file."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 50  # margins


@dataclass(frozen=True)
class Point:
    """A system."""

    name: str
    speed: float  # sentences/s, above 0
    bleu: float  # 0 to 100


def frontier(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats or equals in one and beats in the other, the fastest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (-each.speed, -each.bleu)):
        if not found or point.bleu > found[-1].bleu:
            found.append(point)
    return found


def pareto_svg(points: Sequence[Point], *, speed_label: str, bleu_label: str = "BLEU") -> str:
    """The picture: speed from left to right on a logarithmic axis, BLEU upwards, a line through the frontier.

    Args:
        points: at least one.
        speed_label, bleu_label: of the axes, with their units.

    Raises:
        ValueError: there are no points, or a speed is not above 0.
    """
    if not points or any(point.speed <= 0.0 for point in points):
        raise ValueError("a picture needs points, and speeds above 0")
    scale = _Scale.around(points)
    path = " ".join(f"{scale.x(each.speed):.1f},{scale.y(each.bleu):.1f}" for each in frontier(points))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
            f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">',
            *_axes(scale, speed_label, bleu_label),
            f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-dasharray="4 3" opacity="0.6"/>',
            *(_mark(scale, point) for point in points),
            "</svg>",
        ]
    )


@dataclass(frozen=True)
class _Scale:
    """From figures to places; the ends of both axes."""

    slowest: float
    fastest: float
    lowest: float
    highest: float

    @classmethod
    def around(cls, points: Sequence[Point]) -> _Scale:
        """With room at all sides."""
        speeds, bleus = [each.speed for each in points], [each.bleu for each in points]
        slowest, fastest = 10 ** math.floor(math.log10(min(speeds) / 1.2)), max(speeds) * 2.5
        return cls(slowest, fastest, 5 * math.floor(min(bleus) / 5), 5 * math.floor(max(bleus) / 5) + 5)

    def x(self, speed: float) -> float:
        share = math.log(speed / self.slowest) / math.log(self.fastest / self.slowest)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, bleu: float) -> float:
        share = (bleu - self.lowest) / (self.highest - self.lowest)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _axes(scale: _Scale, speed_label: str, bleu_label: str) -> Iterator[str]:
    base, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    yield f'<path d="M{_LEFT},{_TOP} V{base} H{right}" fill="none" stroke="currentColor"/>'
    for speed in _ticks(scale.slowest, scale.fastest):
        x = scale.x(speed)
        yield f'<path d="M{x:.1f},{base} v5" stroke="currentColor"/>'
        yield f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{speed:g}</text>'
    for bleu in range(int(scale.lowest), int(scale.highest) + 1, 5):
        y = scale.y(bleu)
        yield f'<path d="M{_LEFT},{y:.1f} h-5" stroke="currentColor"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{bleu}</text>'
    yield f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">{html.escape(speed_label)}</text>'
    middle = (_TOP + base) / 2
    label = html.escape(bleu_label)
    yield f'<text x="15" y="{middle}" text-anchor="middle" transform="rotate(-90 15 {middle})">{label}</text>'


def _ticks(low: float, high: float) -> Iterator[float]:
    """1, 2 and 5 times the powers of ten in a range."""
    power = 10.0 ** math.floor(math.log10(low))
    while power <= high:
        yield from (times * power for times in (1, 2, 5) if low <= times * power <= high)
        power *= 10


def _mark(scale: _Scale, point: Point) -> str:
    x, y = scale.x(point.speed), scale.y(point.bleu)
    anchor, shift = ("end", -7) if x > 0.75 * _WIDTH else ("start", 7)
    name, exact = html.escape(point.name), f"{point.bleu:.2f} BLEU, {point.speed:.1f} sentences/s"
    return (
        f'<g><title>{name}: {exact}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        f'<text x="{x + shift:.1f}" y="{y - 5:.1f}" text-anchor="{anchor}">{name}</text></g>'
    )
