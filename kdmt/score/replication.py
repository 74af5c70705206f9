"""Replication of training targets, exact and from a part of the source.

Source: Raunak and Menezes, "Finding Memo: Extractive Memorization in Constrained Sequence Generation Tasks", 2022;
Dankers and Raunak, "Memorization Inheritance in Sequence-Level Knowledge Distillation for Neural Machine Translation",
2025. A target is extractively memorised if the model generates it from at most 75% of the source.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PREFIX_PERCENT = 75


def find_replicated(outputs: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Return whether each output equals its target: two texts, or two sequences of words [N].

    An empty output replicates nothing.
    """
    return np.array(
        [bool(output) and output == target for output, target in zip(outputs, targets, strict=True)], dtype=bool
    )


def source_prefix(source: str, *, spaced: bool = True) -> str:
    """Return the longest beginning of a source with at most 75% of its words; empty for a source of one word.

    Args:
        spaced: whether the text has spaces between words; otherwise characters are counted.
    """
    units = source.split() if spaced else list(source)
    return (" " if spaced else "").join(units[: len(units) * PREFIX_PERCENT // 100])
