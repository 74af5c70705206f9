"""Minimum Bayes risk: choice of the hypothesis that is most similar to all hypotheses of a sentence.

Kumar and Byrne, "Minimum Bayes-Risk Decoding for Statistical Machine Translation", 2004, section 2, over the n-best
list and with chrF as the similarity. Shapes: N hypotheses, T distinct texts among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kdmt.distill.selection import ALL, Candidate, Choice, Selector, probabilities
from kdmt.distill.similarity import chrf_matrix

TIE = 1e-9  # on the scale of chrF, 0 to 100: smaller differences are rounding errors


def by_expected_chrf(lenpen: float | None = None) -> Selector:
    """Return the rule that chooses the hypothesis with the highest expected sentence chrF2 against the n-best list.

    If several have the highest value, the first is chosen.

    Args:
        lenpen: exponent of the length by which scores are divided, to weight hypotheses by the teacher's probabilities,
            renormalised to sum to 1; None for equal weights.
    """
    return Selector(depth=ALL, choose=partial(_likest, lenpen=lenpen))


def _likest(candidates: Sequence[Candidate], _: str, *, lenpen: float | None) -> list[Choice]:
    shares = None if lenpen is None else probabilities(candidates, lenpen)
    expected_N = expected_chrf([candidate.words for candidate in candidates], shares)
    return [(candidates[int(np.argmax(expected_N >= expected_N.max() - TIE))], 1.0)]


def expected_chrf(texts: Sequence[str], shares: Sequence[float] | None = None) -> NDArray[np.float64]:
    """Return Σ_j share_j chrF2(i, j), 0 to 100, of each text i against all texts, including itself [N].

    With equal shares, the order is that of the mean over the other texts, since every text has the same value against
    itself.

    Args:
        texts: one or more texts [N]; texts that differ only in whitespace are compared once.
        shares: weights that sum to 1; by default 1/N each.
    """
    indices: dict[str, int] = {}
    index_N = [indices.setdefault("".join(text.split()), len(indices)) for text in texts]
    share_T = np.bincount(index_N, weights=np.full(len(texts), 1 / len(texts)) if shares is None else shares)
    if len(indices) == 1:  # for example the n-best list of an easy sentence, or an n of 1
        return np.full(len(texts), 100.0 if "" not in indices else 0.0)
    distinct = list(indices)
    return (chrf_matrix(distinct, distinct) @ share_T)[index_N]
