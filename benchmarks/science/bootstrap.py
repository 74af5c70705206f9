"""Confidence intervals of contrasts between systems, over random seeds and over sentences.

A system is trained with several seeds, and each seed translates the same test set. Both are samples: another seed and
other sentences would have given other scores. The variance of a contrast is the sum of two parts.

- Sentences: by the bootstrap. Each replicate draws sentences with replacement, the same ones for all systems.
- Seeds: the sample variance of the contrast over the seeds, divided by their number. Several ways of decoding the same
  models are one sample: their scores are combined for each seed. Models that were trained separately are independent.

With 2 to 5 seeds, percentiles of a bootstrap over seeds would cover the true value in 64 to 88% of all cases instead of
95%. The interval is therefore the estimate plus and minus a quantile of Student's t times the standard error; its
degrees of freedom are those of Welch and Satterthwaite, in which the variance over sentences counts as known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Score = Callable[[Array], Array]  # sums of statistics [..., K] -> scores [...]

REPLICATES = 2000
SEED = 12345
CONFIDENCE = 0.95
_ANGLES = 200_001  # of the numerical integration of Student's t
_NORMAL_DF = 10_000.0  # degrees of freedom from which on Student's t is the normal distribution


@dataclass(frozen=True)
class System:
    """Statistics of a system on a test set.

    Attributes:
        statistics_SNK: float64 [seeds, sentences, statistics], whose sums over sentences determine the score.
        score: function from sums of statistics to scores.
        is_text: whether it is a training set and not the outputs of a model: then the other systems of a contrast need
            not have the same sentences, and theirs are drawn independently.
    """

    statistics_SNK: Array
    score: Score
    is_text: bool = False

    @property
    def scores(self) -> Array:
        """Scores of the seeds on the whole test set, float64 [seeds]."""
        return self.score(self.statistics_SNK.sum(axis=1))


@dataclass(frozen=True)
class Interval:
    """Estimate of a contrast with its confidence interval, which is None for values that are no sample."""

    estimate: float
    bounds: tuple[float, float] | None
    replicates: int = REPLICATES
    confidence: float = CONFIDENCE

    @property
    def low(self) -> float:
        """Lower bound; the estimate itself without an interval."""
        return self.estimate if self.bounds is None else self.bounds[0]

    @property
    def high(self) -> float:
        """Upper bound; the estimate itself without an interval."""
        return self.estimate if self.bounds is None else self.bounds[1]


def contrast_interval(
    systems: Mapping[str, System],
    weights: Mapping[str, float],
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return sum_i weights[i] * (mean score of system i over its seeds), with its interval.

    Args:
        systems: systems by name, EXPERIMENT:SYSTEM[/WAY][@TEST_SET]; the part before `/` or `@` names the models.
            Systems must have the same sentences, except texts, and those with a single sentence, which stand for a
            value without a test set.
        weights: weight of each system.

    Raises:
        ValueError: if a system is unknown, or systems have different sentences or different numbers of seeds for the
            same models.
    """
    unknown = [name for name in weights if name not in systems]
    if unknown:
        raise ValueError(f"no such system: {', '.join(unknown)}")
    used = {name: systems[name] for name in weights}
    sizes = {system.statistics_SNK.shape[1] for system in used.values()} - {1}
    if len(sizes) > 1 and not all(system.is_text for system in used.values()):
        raise ValueError(f"systems with different numbers of sentences: {sorted(sizes)}")
    estimate = sum(weight * float(used[name].scores.mean()) for name, weight in weights.items())
    of_sentences = _variance_over_sentences(used, weights, sizes, np.random.default_rng(seed), replicates)
    of_models = list(_variances_over_seeds(used, weights))
    if not sizes and not of_models:
        return Interval(estimate, None, replicates, confidence)
    variance = of_sentences + sum(own for own, _ in of_models)
    weighted = sum(own**2 / (num_seeds - 1) for own, num_seeds in of_models)
    df = variance**2 / weighted if weighted else math.inf
    half = t_quantile((1 + confidence) / 2, df) * math.sqrt(variance)
    return Interval(estimate, (estimate - half, estimate + half), replicates, confidence)


def _variances_over_seeds(systems: Mapping[str, System], weights: Mapping[str, float]) -> Iterator[tuple[float, int]]:
    """Yield the variance of the mean over the seeds of some models' part of the contrast, and the number of seeds.

    Models with one seed are left out.
    """
    parts: dict[str, Array] = {}
    for name, weight in weights.items():
        models, own = re.split("[/@]", name)[0], weight * systems[name].scores
        if models in parts and len(parts[models]) != len(own):
            raise ValueError(f"{models}: different numbers of seeds for the same models")
        parts[models] = parts.get(models, 0.0) + own
    for contrast_S in parts.values():
        if len(contrast_S) > 1:
            yield float(contrast_S.var(ddof=1)) / len(contrast_S), len(contrast_S)


def _variance_over_sentences(
    systems: Mapping[str, System],
    weights: Mapping[str, float],
    sizes: set[int],
    random: np.random.Generator,
    replicates: int,
) -> float:
    """Return the variance over sentences of the contrast of the means over seeds.

    Systems with the same number of sentences have the same draws.
    """
    variance = 0.0
    for size in sorted(sizes):
        drawn_BN = _draw_sentences(random, size, replicates)
        samples_B = np.zeros(replicates)
        for name, weight in weights.items():
            if systems[name].statistics_SNK.shape[1] == size:
                samples_B += weight * _resampled_means(systems[name], drawn_BN)
        variance += float(samples_B.var(ddof=1))
    return variance


def _draw_sentences(random: np.random.Generator, num_sentences: int, replicates: int) -> Array:
    """Return how often each sentence is drawn in each replicate, [replicates, sentences]."""
    uniform = np.full(num_sentences, 1 / num_sentences)
    return random.multinomial(num_sentences, uniform, size=replicates).astype(np.float64)


def _resampled_means(system: System, drawn_BN: Array) -> Array:
    """Return the mean score over the seeds on the drawn sentences of each replicate, [replicates]."""
    sums_SBK = np.stack([drawn_BN @ statistics_NK for statistics_NK in system.statistics_SNK])
    return system.score(sums_SBK).mean(axis=0)


def t_quantile(probability: float, df: float) -> float:
    """Return a quantile of Student's t for a probability of at least 0.5.

    With t = sqrt(df) tan(angle), the density of the angle is proportional to cos(angle) ** (df - 1).

    Args:
        df: degrees of freedom, at least 1.
    """
    if df >= _NORMAL_DF:
        return NormalDist().inv_cdf(probability)
    angles = np.linspace(0.0, math.pi / 2, _ANGLES)
    density = np.cos(angles) ** (df - 1)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = float(np.interp(2 * probability - 1, cumulative / cumulative[-1], angles))
    return math.sqrt(df) * math.tan(angle)
