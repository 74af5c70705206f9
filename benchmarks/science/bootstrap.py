"""Two-level bootstrap: confidence intervals of contrasts between systems over random seeds and over sentences.

A system is trained with several seeds, and each seed translates the same test set. Both are samples: another seed and
other sentences would have given other scores. Each replicate therefore draws sentences with replacement, the same ones
for all systems, and seeds with replacement, independently for each system, and computes the contrast again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Score = Callable[[Array], Array]  # sums of statistics [..., K] -> scores [...]

REPLICATES = 2000
SEED = 12345
CONFIDENCE = 0.95


@dataclass(frozen=True)
class System:
    """Statistics of a system on a test set.

    Attributes:
        statistics_SNK: float64 [seeds, sentences, statistics], whose sums over sentences determine the score.
        score: function from sums of statistics to scores.
    """

    statistics_SNK: Array
    score: Score

    @property
    def scores(self) -> Array:
        """Scores of the seeds on the whole test set, float64 [seeds]."""
        return self.score(self.statistics_SNK.sum(axis=1))


@dataclass(frozen=True)
class Interval:
    """Estimate of a contrast with its confidence interval."""

    estimate: float
    low: float
    high: float
    replicates: int = REPLICATES
    confidence: float = CONFIDENCE


def contrast_interval(
    systems: Mapping[str, System],
    weights: Mapping[str, float],
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return sum_i weights[i] * (mean score of system i over its seeds), with its percentile interval.

    Systems must have the same sentences, except those with a single sentence, which stand for a value without a test
    set: of these only seeds are drawn.

    Raises:
        ValueError: if a system is unknown, or systems have different numbers of sentences.
    """
    unknown = [name for name in weights if name not in systems]
    if unknown:
        raise ValueError(f"no such system: {', '.join(unknown)}")
    sizes = {systems[name].statistics_SNK.shape[1] for name in weights} - {1}
    if len(sizes) > 1:
        raise ValueError(f"systems with different numbers of sentences: {sorted(sizes)}")
    random = np.random.default_rng(seed)
    drawn_BN = _draw_sentences(random, sizes.pop() if sizes else 1, replicates)
    estimate, samples_B = 0.0, np.zeros(replicates)
    for name, weight in weights.items():
        system = systems[name]
        estimate += weight * float(system.scores.mean())
        samples_B += weight * _resampled_means(system, drawn_BN, random)
    low, high = np.quantile(samples_B, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), replicates, confidence)


def _draw_sentences(random: np.random.Generator, num_sentences: int, replicates: int) -> Array:
    """Return how often each sentence is drawn in each replicate, [replicates, sentences]."""
    uniform = np.full(num_sentences, 1 / num_sentences)
    return random.multinomial(num_sentences, uniform, size=replicates).astype(np.float64)


def _resampled_means(system: System, drawn_BN: Array, random: np.random.Generator) -> Array:
    """Return the mean score over drawn seeds on the drawn sentences of each replicate, [replicates]."""
    num_seeds, num_sentences, _ = system.statistics_SNK.shape
    if num_sentences == 1:
        scores_BS = np.broadcast_to(system.scores, (len(drawn_BN), num_seeds))
    else:
        sums_SBK = np.stack([drawn_BN @ statistics_NK for statistics_NK in system.statistics_SNK])
        scores_BS = system.score(sums_SBK).T
    seeds_BS = random.integers(num_seeds, size=(len(drawn_BN), num_seeds))
    return np.take_along_axis(scores_BS, seeds_BS, axis=1).mean(axis=1)
