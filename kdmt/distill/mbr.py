"""Minimum Bayes risk: of a sentence's hypotheses the one that is most like all of them.

Kumar and Byrne, "Minimum Bayes-Risk Decoding for Statistical Machine Translation", 2004, section 2, over the n-best
and with chrF for likeness. Shape legend: N hypotheses, T different texts among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kdmt.distill.selection import ALL, Candidate, Choice, Selector, probabilities
from kdmt.distill.similarity import chrf_matrix

TIE = 1e-9  # of chrF, 0 to 100: what is nearer together than this is equal but for rounding


def by_expected_chrf(lenpen: float | None = None) -> Selector:
    """The hypothesis with the highest expected sentence chrF2 against the n-best; of equals the first.

    Args:
        lenpen: each counts by the teacher's probability of it, renormalised to sum to 1 over them, where scores are
            over length ** lenpen; None: all count the same.
    """
    return Selector(depth=ALL, choose=partial(_likest, lenpen=lenpen))


def _likest(candidates: Sequence[Candidate], _: str, *, lenpen: float | None) -> list[Choice]:
    shares = None if lenpen is None else probabilities(candidates, lenpen)
    expected_N = expected_chrf([candidate.words for candidate in candidates], shares)
    return [(candidates[int(np.argmax(expected_N >= expected_N.max() - TIE))], 1.0)]


def expected_chrf(texts: Sequence[str], shares: Sequence[float] | None = None) -> NDArray[np.float64]:
    """Σ_j share_j chrF2(i, j), 0 to 100, of each text i against all of them, itself among them [N].

    With equal shares the order is that of the mean against the others, for each has the same of itself.

    Args:
        texts: at least one [N]; those that differ in whitespace alone are compared once.
        shares: summing to 1; by default 1/N each.
    """
    places: dict[str, int] = {}
    place_N = [places.setdefault("".join(text.split()), len(places)) for text in texts]
    share_T = np.bincount(place_N, weights=np.full(len(texts), 1 / len(texts)) if shares is None else shares)
    if len(places) == 1:  # as the n-best of an easy sentence, or of an n of 1
        return np.full(len(texts), 100.0 if "" not in places else 0.0)
    distinct = list(places)
    return (chrf_matrix(distinct, distinct) @ share_T)[place_N]
