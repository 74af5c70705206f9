"""How long sentences are, and whether the two sides of a pair fit each other: one measure for every pair of scripts.

A length is a number of characters (Unicode code points). How many of them the target has for one of the source differs
between languages, so a pair is held against the typical ratio, which is the median over its corpus. Words are what
stands between spaces; they are counted where text has them (`kdmt.languages.writes_spaces`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SLACK = 10  # characters that are added to both sides: short lines may differ by more than their ratio says
_BINS_PER_NAT = 1000  # of the histogram of logarithms: the median is known to 0.05%
_MOST_NATS = 12

Lengths = NDArray[np.uint32]


def count_characters(lines: Sequence[str]) -> Lengths:
    """Return the number of characters of each line [N]."""
    return np.fromiter(map(len, lines), dtype=np.uint32, count=len(lines))


def split_words(line: str, *, spaced: bool) -> list[str]:
    """Return the words of a line: what stands between spaces, or each character of text that is written without."""
    return line.split() if spaced else list("".join(line.split()))


def length_ratios(source_N: Lengths, target_N: Lengths, typical: float) -> NDArray[np.float64]:
    """Return the longer over the shorter side of pairs, each measured against the typical ratio [N].

    With r = `typical`, the lengths compared are source · √r + SLACK and target / √r + SLACK, so that a typical pair
    has 1, and exchanging the two sides (and r for 1/r) changes nothing. Where one side alone is empty it is infinite.

    Args:
        source_N, target_N: characters of each side.
        typical: target characters for one of the source.
    """
    scale = math.sqrt(typical)
    expected_N = source_N * scale + SLACK
    found_N = target_N / scale + SLACK
    ratios_N = np.maximum(expected_N, found_N) / np.minimum(expected_N, found_N)
    ratios_N[(source_N == 0) != (target_N == 0)] = np.inf
    return ratios_N


@dataclass
class RatioMedian:
    """The median of target over source characters of any number of pairs, in fixed memory."""

    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(2 * _MOST_NATS * _BINS_PER_NAT + 1, dtype=np.int64)
    )

    def add(self, source_N: Lengths, target_N: Lengths) -> None:
        """Count pairs; those with an empty side have no ratio."""
        both_N = (source_N > 0) & (target_N > 0)
        logs_N = np.log(target_N[both_N].astype(np.float64)) - np.log(source_N[both_N].astype(np.float64))
        bins_N = np.rint(np.clip(logs_N, -_MOST_NATS, _MOST_NATS) * _BINS_PER_NAT).astype(np.int64)
        self.counts += np.bincount(bins_N + _MOST_NATS * _BINS_PER_NAT, minlength=len(self.counts))

    def value(self) -> float:
        """Return the median to six digits, of an even number of pairs the lower one; 1 where there is no pair."""
        total = int(self.counts.sum())
        if not total:
            return 1.0
        middle = int(np.searchsorted(np.cumsum(self.counts), (total + 1) // 2))
        return float(f"{math.exp((middle - _MOST_NATS * _BINS_PER_NAT) / _BINS_PER_NAT):.6g}")


def typical_ratio(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> float:
    """Return the typical ratio of a corpus that comes as chunks of source and target lines."""
    median = RatioMedian()
    for sources, targets in pairs:
        median.add(count_characters(sources), count_characters(targets))
    return median.value()
