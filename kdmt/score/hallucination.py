"""Counts of outputs that have little to do with their source: oscillating and detached hallucinations.

Source: Raunak, Menezes, Junczys-Dowmunt, "The Curious Case of Hallucinations in Neural Machine Translation", 2021. The
thresholds are those of Dankers and Raunak, "Memorization Inheritance in Sequence-Level Knowledge Distillation for
Neural Machine Translation", 2025.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

BIGRAM_TIMES = 10
DISTINCT_SOURCES = 5

Words = Sequence[str]


def find_oscillating(
    sources: Sequence[Words], outputs: Sequence[Words], *, times: int = BIGRAM_TIMES
) -> NDArray[np.bool_]:
    """Return whether each output has a bigram at least `times` times, while its source has no bigram that often [N]."""
    return np.array(
        [
            _most_frequent_bigram(output) >= times > _most_frequent_bigram(source)
            for source, output in zip(sources, outputs, strict=True)
        ],
        dtype=bool,
    )


def find_detached(
    sources: Sequence[Words], outputs: Sequence[Words], *, distinct: int = DISTINCT_SOURCES
) -> NDArray[np.bool_]:
    """Return whether each output is that of at least `distinct` different sources [N]."""
    sources_of: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for source, output in zip(sources, outputs, strict=True):
        sources_of.setdefault(tuple(output), set()).add(tuple(source))
    return np.array([len(sources_of[tuple(output)]) >= distinct for output in outputs], dtype=bool)


def _most_frequent_bigram(words: Words) -> int:
    """Return how often the most frequent pair of neighbouring words occurs; pairs may overlap."""
    return max(Counter(pairwise(words)).values(), default=0)
