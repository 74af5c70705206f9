"""Histograms as SVG text for a page."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 480, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 8, 44  # margins
_NUM_BINS = 30
_NUM_LABELS = 4
_COVERED = 0.995  # share of the values in bins of the same width; the last bin has all larger ones


@dataclass(frozen=True)
class Histogram:
    """Numbers of values in bins.

    Attributes:
        labels: label of each bin, such as `10–14`.
        counts: number of values in each bin.
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]


def histogram_of_sizes(counts: NDArray[np.int64]) -> Histogram:
    """Return a histogram of positive integers.

    Args:
        counts: number of values that are 0, 1, 2, ...
    """
    total = int(counts.sum())
    if not total:
        return Histogram((), ())
    most = int(np.searchsorted(np.cumsum(counts), _COVERED * total)) + 1
    width = -(-most // _NUM_BINS)
    starts = range(0, most, width)
    found = [int(counts[start : start + width].sum()) for start in starts]
    labels = [str(start) if width == 1 else f"{start}–{start + width - 1}" for start in starts]
    if rest := total - sum(found):
        found.append(rest)
        labels.append(f"{starts[-1] + width}+")
    return Histogram(tuple(labels), tuple(found))


def histogram_of_ratios(ratios: NDArray[np.float64]) -> Histogram:
    """Return a histogram of positive ratios, with bins of the same width on a logarithmic scale around 1."""
    edges = 2.0 ** np.linspace(-2.0, 2.0, 25)
    bins = np.bincount(np.digitize(ratios, edges), minlength=len(edges) + 1)
    inner = [f"{low:.2f}–{high:.2f}" for low, high in itertools.pairwise(edges)]
    return Histogram((f"below {edges[0]:.2f}", *inner, f"{edges[-1]:.2f}+"), tuple(bins.tolist()))


def histogram_svg(histogram: Histogram, title: str, unit: str) -> str:
    """Return a picture of a histogram; each bar has its label and count as a tooltip.

    Args:
        title: description of the picture for screen readers.
        unit: unit of the axis.
    """
    counts = histogram.counts
    width = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1)
    base, highest = _HEIGHT - _BOTTOM, max(counts, default=0) or 1
    bars = []
    for number, (label, count) in enumerate(zip(histogram.labels, counts, strict=True)):
        height = (base - _TOP) * count / highest
        bars.append(
            f'<rect x="{_LEFT + number * width + 0.5:.1f}" y="{base - height:.1f}" width="{max(width - 1, 0.5):.1f}" '
            f'height="{height:.1f}"><title>{html.escape(label)}: {count:,}</title></rect>'
        )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" class="histogram" '
            f'aria-label="{html.escape(title)}" font-size="14">',
            *bars,
            f'<path d="M{_LEFT},{base + 0.5} H{_WIDTH - _RIGHT}" fill="none" stroke="currentColor"/>',
            *_axis_labels(histogram.labels, width, base),
            f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">{html.escape(unit)}</text>',
            "</svg>",
        ]
    )


def _axis_labels(labels: Sequence[str], width: float, base: int) -> list[str]:
    step = max(1, -(-len(labels) // _NUM_LABELS))
    return [
        f'<text x="{_LEFT + (number + 0.5) * width:.1f}" y="{base + 17}" text-anchor="middle">'
        f"{html.escape(labels[number])}</text>"
        for number in range(step // 2, len(labels), step)
    ]
