"""Choice of several good targets that differ from each other: maximal marginal relevance.

Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries",
1998. Shapes: N hypotheses, T distinct texts among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kdmt.distill.mbr import TIE
from kdmt.distill.selection import ALL, Candidate, Choice, Line, Selector
from kdmt.distill.similarity import chrf_matrix

# candidates of a sentence -> quality of each, 0 to 100 [N]
Quality = Callable[[Sequence[Candidate]], NDArray[np.float64]]


def token_probability(candidates: Sequence[Candidate], *, lenpen: float) -> NDArray[np.float64]:
    """Return 100 times the geometric mean of the probabilities of the tokens of each candidate [N].

    It is 0 for a candidate of another system, whose score is NaN.

    Args:
        lenpen: exponent of the length by which scores are divided.
    """
    found = [100 * math.exp(each.score * each.length ** (lenpen - 1)) for each in candidates]
    return np.nan_to_num(np.array(found), nan=0.0)


def diverse(quality: Quality, *, targets: int, balance: float) -> Selector:
    """Return the rule that chooses targets one by one, each by its quality and its difference from those before it.

    The next target is the candidate i with the highest

        balance * quality(i) - (1 - balance) * max over chosen j of chrF2(i, j)

    The first target has no other before it and is the candidate of the highest quality. Candidates whose texts differ
    only in whitespace are one.

    Args:
        targets: maximum number of targets of a sentence.
        balance: weight of the quality, 0 to 1.
    """
    return Selector(
        depth=ALL,
        choose=partial(_diverse, quality=quality, targets=targets, balance=balance),
        reason="quality minus similarity",
        columns=("margin", "quality", "similarity"),
    )


def _diverse(
    candidates: Sequence[Candidate], _: Line, *, quality: Quality, targets: int, balance: float
) -> list[Choice]:
    first: dict[str, int] = {}
    for index, candidate in enumerate(candidates):
        first.setdefault("".join(candidate.words.split()), index)
    first_T = np.array(list(first.values()))
    quality_T = quality(candidates)[first_T]
    texts = list(first)
    similarity_T = np.zeros(len(texts))
    left_T = np.ones(len(texts), dtype=bool)
    chosen: list[Choice] = []
    while len(chosen) < targets and left_T.any():
        # without a target so far, the order is that of the quality, for a balance of 0 too
        margin_T = balance * quality_T - (1 - balance) * similarity_T if chosen else quality_T
        margin_T = np.where(left_T, margin_T, -np.inf)
        best = int(np.argmax(margin_T >= margin_T.max() - TIE))
        values = (float(margin_T[best]), float(quality_T[best]), float(similarity_T[best]))
        chosen.append(Choice(int(first_T[best]), values=values))
        left_T[best] = False
        if len(chosen) < targets:
            similarity_T = np.maximum(similarity_T, chrf_matrix(texts, [texts[best]])[:, 0])
    return chosen
