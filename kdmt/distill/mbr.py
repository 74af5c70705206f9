"""Minimum Bayes risk: choice of the hypotheses with the highest expected utility against all hypotheses of a sentence.

Kumar and Byrne, "Minimum Bayes-Risk Decoding for Statistical Machine Translation", 2004, section 2, over the candidates
of a sentence, with chrF, BLEU or another similarity as the utility. The n best instead of the best: Wang et al. 2024.
Shapes: N hypotheses, T distinct texts among them, K texts of which the full expectation is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kdmt.choices import MbrWeights
from kdmt.config import Mbr
from kdmt.distill.selection import ALL, Candidate, Choice, Line, Selector, probabilities
from kdmt.distill.similarity import bleu_matrix, chrf_matrix, mean_bleu, mean_chrf

TIE = 1e-9  # on the scale of 0 to 100: smaller differences are rounding errors

# (hypotheses, references) -> utility of each hypothesis against each reference, 0 to 100 [H, R]
Matrix = Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]
# (texts, their weights) -> utility of each text against the weighted mean of the statistics of all texts [T]
Aggregate = Callable[[Sequence[str], Sequence[float]], NDArray[np.float64]]


@dataclass(frozen=True)
class Utility:
    """A similarity of two translations.

    Attributes:
        matrix: utilities of hypotheses against references.
        aggregate: utilities against aggregated references, in linear time. A utility without statistics of n-grams
            has that of chrF, for pruning alone.
        ignores_spaces: whether texts that differ only in whitespace are equal.
    """

    matrix: Matrix
    aggregate: Aggregate = mean_chrf
    ignores_spaces: bool = False


# of pruning, if an external scorer compares the texts
COARSE = Utility(chrf_matrix, mean_chrf)
CHRF = Utility(chrf_matrix, mean_chrf, ignores_spaces=True)


def bleu_utility(tokenize: str) -> Utility:
    """Return sentence BLEU.

    Args:
        tokenize: name of sacreBLEU's tokenizer.
    """
    return Utility(partial(bleu_matrix, tokenize=tokenize), partial(mean_bleu, tokenize=tokenize))


@dataclass(frozen=True)
class Comparisons:
    """Comparisons whose weighted means are the expected utilities of the candidates of a sentence.

    Attributes:
        texts: distinct texts, which are the references.
        index_N: index of the text of each candidate.
        share_T: weight of each text as a reference; the sum is 1.
        kept_K: indices of the texts that are compared with all texts; the others are pruned.
    """

    texts: list[str]
    index_N: NDArray[np.int64]
    share_T: NDArray[np.float64]
    kept_K: NDArray[np.int64]

    @property
    def kept(self) -> list[str]:
        """Return the texts that are compared with all texts."""
        return [self.texts[index] for index in self.kept_K.tolist()]

    def expectation(self, utility_KT: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the expected utility of each candidate; -inf for a candidate that was pruned [N]."""
        expected_T = np.full(len(self.texts), -np.inf)
        expected_T[self.kept_K] = utility_KT @ self.share_T
        return expected_T[self.index_N]


@dataclass(frozen=True)
class ExpectedUtility:
    """The expected utility of the candidates of a sentence. It can be sent to other processes.

    Attributes:
        utility: similarity of two translations.
        weights: weights of the candidates as references: equal, by number of draws, or by probability.
        lenpen: exponent of the length by which scores are divided.
        aggregate: True to compare with the mean statistics of all candidates, in linear time.
        prune: number of texts with the highest aggregated utility for which the expectation is computed; 0 for all.
    """

    utility: Utility = CHRF
    weights: MbrWeights = "equal"
    lenpen: float = 1.0
    aggregate: bool = False
    prune: int = 0

    @classmethod
    def of(cls, settings: Mbr, utility: Utility, lenpen: float) -> ExpectedUtility:
        """Return the expected utility that the section `distill.mbr` describes."""
        return cls(utility, settings.weights, lenpen, settings.aggregate, settings.prune)

    def __call__(self, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """Return the expected utility of each candidate, 0 to 100; -inf for a candidate that was pruned [N]."""
        compared = self.comparisons(candidates)
        texts = compared.texts
        if len(texts) == 1:  # for example the n-best list of an easy sentence, or an n of 1
            return np.full(len(candidates), 100.0 if texts[0].strip() else 0.0)
        if self.aggregate:
            return self.utility.aggregate(texts, compared.share_T.tolist())[compared.index_N]
        return compared.expectation(self.utility.matrix(compared.kept, texts))

    def comparisons(self, candidates: Sequence[Candidate]) -> Comparisons:
        """Return the comparisons of which the expectation consists."""
        distinct, index_N = self.distinct(candidates)
        share_T = np.bincount(index_N, weights=self._shares(candidates)).astype(np.float64)
        kept_K = np.arange(len(distinct))
        if 0 < self.prune < len(distinct):
            coarse_T = self.utility.aggregate(distinct, share_T.tolist())
            kept_K = np.sort(np.argsort(-coarse_T, kind="stable")[: self.prune])
        return Comparisons(distinct, index_N, share_T, kept_K)

    def distinct(self, candidates: Sequence[Candidate]) -> tuple[list[str], NDArray[np.int64]]:
        """Return the distinct texts [T], and the index of the text of each candidate [N]."""
        indices: dict[str, int] = {}
        texts = ["".join(each.words.split()) if self.utility.ignores_spaces else each.words for each in candidates]
        index_N = np.array([indices.setdefault(text, len(indices)) for text in texts], dtype=np.int64)
        return list(indices), index_N

    def _shares(self, candidates: Sequence[Candidate]) -> list[float]:
        if self.weights == "probability":
            return probabilities(candidates, self.lenpen)
        counts = [each.count for each in candidates] if self.weights == "count" else []
        if not any(counts):  # equal weights, also for a sentence without a usable sample
            return [1 / len(candidates)] * len(candidates)
        return [count / sum(counts) for count in counts]


@dataclass(frozen=True)
class GivenUtility:
    """The expected utility that an external scorer computed before, as the first given score of each candidate."""

    def __call__(self, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """Return the expected utility of each candidate; -inf for a candidate that was pruned [N]."""
        return np.array([each.given[0] for each in candidates])

    def distinct(self, candidates: Sequence[Candidate]) -> tuple[list[str], NDArray[np.int64]]:
        """See `ExpectedUtility.distinct`."""
        return ExpectedUtility(COARSE).distinct(candidates)


def by_expected_utility(expected: ExpectedUtility | GivenUtility | None = None, *, top: int = 1) -> Selector:
    """Return the rule that chooses the hypotheses with the highest expected utility.

    If several have the highest value, the first is chosen. No text is chosen twice.

    Args:
        expected: expected utility; by default that of chrF with equal weights.
        top: maximum number of targets of a sentence.
    """
    return Selector(
        depth=ALL,
        choose=partial(_likest, expected=expected or ExpectedUtility(), top=top),
        reason="highest expected utility",
        columns=("utility",),
    )


def _likest(
    candidates: Sequence[Candidate], _: Line, *, expected: ExpectedUtility | GivenUtility, top: int
) -> list[Choice]:
    utility_N = expected(candidates)
    index_N = expected.distinct(candidates)[1]
    left_N = utility_N.copy()
    chosen: list[Choice] = []
    while len(chosen) < top and left_N.max() > -np.inf:
        best = int(np.argmax(left_N >= left_N.max() - TIE))
        chosen.append(Choice(best, values=(float(utility_N[best]),)))
        left_N[index_N == index_N[best]] = -np.inf
    return chosen
