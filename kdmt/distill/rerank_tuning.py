"""Weights of a linear model over features of candidates, by pairwise ranking optimisation.

Hopkins and May, "Tuning as Ranking", 2011, section 3: pairs of candidates of a sentence are drawn, those with the
largest difference in the metric are kept, and logistic regression learns which of the two is better from the difference
of their features. They draw from 1500 candidates with replacement; here the lists are shorter, and the pairs distinct.
Shapes: S sentences, N candidates of a sentence, F features, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 200  # distinct pairs that are drawn from a sentence
NUM_PAIRS = 50  # of them, the ones with the largest difference that are kept
RIDGE = 1e-4  # weight of the squared norm, so that separable pairs have a finite solution
_MAX_STEPS = 100
_CONVERGED = 1e-8


@dataclass(frozen=True)
class TuningSentence:
    """The candidates of a sentence of the validation set.

    Attributes:
        features_NF: features of each candidate.
        metric_N: metric of each candidate against the reference; higher is better.
    """

    features_NF: NDArray[np.float64]
    metric_N: NDArray[np.float64]


def tune_weights(sentences: Sequence[TuningSentence], *, seed: int) -> NDArray[np.float64]:
    """Return the weights of the features [F].

    A feature that never differs between candidates of a sentence has the weight 0.

    Raises:
        ValueError: if no two candidates of a sentence differ in the metric.
    """
    rng = np.random.default_rng(seed)
    differences_PF = np.concatenate([_pair_differences(each, rng) for each in sentences] or [np.empty((0, 0))])
    if not len(differences_PF):
        raise ValueError("no two candidates of a sentence differ in the metric")
    scale_F = np.sqrt(np.mean(differences_PF**2, axis=0))
    scale_F[scale_F == 0] = np.inf
    weights_F: NDArray[np.float64] = fit_ranking(differences_PF / scale_F) / scale_F
    return weights_F


def _pair_differences(sentence: TuningSentence, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return features of the better candidate minus features of the worse one, for the kept pairs [P, F]."""
    left, right = np.triu_indices(len(sentence.metric_N), k=1)
    drawn = rng.permutation(len(left))[:NUM_DRAWS]
    gain = sentence.metric_N[left[drawn]] - sentence.metric_N[right[drawn]]
    kept = np.argsort(-np.abs(gain), kind="stable")[:NUM_PAIRS]
    kept = kept[gain[kept] != 0]
    difference_PF = sentence.features_NF[left[drawn[kept]]] - sentence.features_NF[right[drawn[kept]]]
    return difference_PF * np.sign(gain[kept])[:, None]


def fit_ranking(differences_PF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the w that minimises mean_p log(1 + exp(-w · difference_p)) + RIDGE/2 |w|², by Newton's method [F]."""
    num_pairs, num_features = differences_PF.shape
    weights_F = np.zeros(num_features)
    loss = _loss(weights_F, differences_PF)
    for _ in range(_MAX_STEPS):
        wrong_P = 1 / (1 + np.exp(np.clip(differences_PF @ weights_F, -500, 500)))  # probability of the wrong order
        gradient_F = RIDGE * weights_F - differences_PF.T @ wrong_P / num_pairs
        curvature_P = wrong_P * (1 - wrong_P)
        hessian_FF = (differences_PF.T * curvature_P) @ differences_PF / num_pairs + RIDGE * np.eye(num_features)
        step_F = np.linalg.solve(hessian_FF, gradient_F)
        size = 1.0
        while (reached := _loss(weights_F - size * step_F, differences_PF)) > loss and size > _CONVERGED:
            size /= 2
        weights_F, loss = weights_F - size * step_F, reached
        if np.abs(gradient_F).max() < _CONVERGED:
            break
    return weights_F


def _loss(weights_F: NDArray[np.float64], differences_PF: NDArray[np.float64]) -> float:
    return float(np.logaddexp(0, -differences_PF @ weights_F).mean() + RIDGE / 2 * weights_F @ weights_F)
