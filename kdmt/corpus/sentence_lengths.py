"""Sentence lengths, and the ratio between the two sides of a pair, measured in the same way for every pair of scripts.

A length is a number of characters (Unicode code points). The number of target characters per source character differs
between languages, so a pair is compared with the typical ratio, which is the median over its corpus. Words are
separated by spaces; they are counted if text has spaces between words (`kdmt.languages.writes_spaces`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SLACK = 10  # characters added to both sides, because the ratio of short lines varies more
_BINS_PER_NAT = 1000  # resolution of the histogram of logarithms: the median is accurate to 0.05%
_MOST_NATS = 12

Lengths = NDArray[np.uint32]


def count_characters(lines: Sequence[str]) -> Lengths:
    """Return the number of characters of each line [N]."""
    return np.fromiter(map(len, lines), dtype=np.uint32, count=len(lines))


def split_words(line: str, *, spaced: bool) -> list[str]:
    """Return the words of a line. In text without spaces between words, each character is a word."""
    return line.split() if spaced else list("".join(line.split()))


def length_ratios(source_N: Lengths, target_N: Lengths, typical: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ratio of the longer to the shorter side of each pair, relative to the typical ratio [N].

    With r = `typical`, the compared lengths are source · √r + SLACK and target / √r + SLACK. A typical pair has the
    ratio 1, and exchanging the two sides (and r with 1/r) changes nothing. If only one side is empty, the ratio is
    infinite.

    Args:
        source_N, target_N: number of characters of each side.
        typical: typical number of target characters per source character, or that of each pair [N].
    """
    scale = np.sqrt(typical)
    expected_N = source_N * scale + SLACK
    found_N = target_N / scale + SLACK
    ratios_N = np.maximum(expected_N, found_N) / np.minimum(expected_N, found_N)
    ratios_N[(source_N == 0) != (target_N == 0)] = np.inf
    return ratios_N


@dataclass
class RatioMedian:
    """Median ratio of target to source characters of any number of pairs, computed in fixed memory."""

    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(2 * _MOST_NATS * _BINS_PER_NAT + 1, dtype=np.int64)
    )

    def add(self, source_N: Lengths, target_N: Lengths) -> None:
        """Add pairs. Pairs with an empty side have no ratio and are ignored."""
        both_N = (source_N > 0) & (target_N > 0)
        logs_N = np.log(target_N[both_N].astype(np.float64)) - np.log(source_N[both_N].astype(np.float64))
        bins_N = np.rint(np.clip(logs_N, -_MOST_NATS, _MOST_NATS) * _BINS_PER_NAT).astype(np.int64)
        self.counts += np.bincount(bins_N + _MOST_NATS * _BINS_PER_NAT, minlength=len(self.counts))

    def value(self) -> float:
        """Return the median to six digits: for an even number of pairs the lower one, without any pair 1."""
        total = int(self.counts.sum())
        if not total:
            return 1.0
        middle = int(np.searchsorted(np.cumsum(self.counts), (total + 1) // 2))
        return float(f"{math.exp((middle - _MOST_NATS * _BINS_PER_NAT) / _BINS_PER_NAT):.6g}")


def typical_ratio(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> float:
    """Return the typical ratio of a corpus, given as chunks of source and target lines."""
    median = RatioMedian()
    for sources, targets in pairs:
        median.add(count_characters(sources), count_characters(targets))
    return median.value()
