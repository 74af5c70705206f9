"""Tests of tuning: planted weights are recovered, and the regression reaches the minimum of its loss."""

from __future__ import annotations

import numpy as np
import pytest

from kdmt.distill.rerank_tuning import RIDGE, TuningSentence, fit_ranking, tune_weights


def sentences_of(weights: list[float], *, noise: float, seed: int, count: int = 200) -> list[TuningSentence]:
    """Return sentences whose metric is a weighted sum of features plus noise and a value of the sentence."""
    rng = np.random.default_rng(seed)
    scale_F = 10.0 ** np.arange(len(weights))  # features of different sizes
    found = []
    for _ in range(count):
        features_NF = rng.normal(size=(25, len(weights))) * scale_F + 100 * rng.normal(size=len(weights))
        metric_N = features_NF @ np.array(weights) + noise * rng.normal(size=25) + 30 * rng.normal()
        found.append(TuningSentence(features_NF, metric_N))
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_weights_are_recovered_up_to_their_scale(seed: int) -> None:
    planted = [2.0, 0.0, -0.03, 0.001]  # in units of the features: 2, 0, -3, 1
    found = tune_weights(sentences_of(planted, noise=1.0, seed=seed), seed=seed)
    relative = found / found[0] * planted[0] * 10.0 ** np.arange(4)
    assert relative == pytest.approx([2, 0, -3, 1], abs=0.25)


def test_a_planted_feature_chooses_nearly_the_best_candidates() -> None:
    """One feature is the metric with a little noise, the others are noise."""
    rng = np.random.default_rng(5)
    sentences = []
    for _ in range(100):
        metric_N = rng.normal(size=20)
        features_NF = rng.normal(size=(20, 5))
        features_NF[:, 3] = metric_N + 0.05 * rng.normal(size=20)
        sentences.append(TuningSentence(features_NF, metric_N))
    weights_F = tune_weights(sentences[:50], seed=1)
    assert np.abs(np.delete(weights_F, 3)).max() < 0.1 * weights_F[3]
    held_out = [each.metric_N[np.argmax(each.features_NF @ weights_F)] for each in sentences[50:]]
    assert np.mean(held_out) > np.mean([each.metric_N.max() for each in sentences[50:]]) - 0.1


def test_the_seed_decides() -> None:
    sentences = sentences_of([1.0, 0.1], noise=5.0, seed=1, count=20)
    first, again, other = (tune_weights(sentences, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_constant_feature_has_no_weight_and_equal_candidates_cannot_be_ranked() -> None:
    sentences = [
        TuningSentence(np.array([[1.0, 7.0], [2.0, 7.0]]), np.array([1.0, 2.0])),
        TuningSentence(np.array([[5.0, 9.0]]), np.array([3.0])),  # one candidate
    ]
    weights_F = tune_weights(sentences, seed=1)
    assert weights_F[0] > 0
    assert weights_F[1] == 0
    with pytest.raises(ValueError, match="no two candidates of a sentence differ in the metric"):
        tune_weights(sentences[1:], seed=1)
    with pytest.raises(ValueError, match="no two candidates of a sentence differ in the metric"):
        tune_weights([], seed=1)


def test_the_gradient_is_zero_at_the_solution() -> None:
    rng = np.random.default_rng(3)
    for scale in (0.1, 1.0, 20.0):
        differences_PF = scale * (rng.normal(size=(300, 3)) + np.array([0.4, 0.0, -0.2]))
        weights_F = fit_ranking(differences_PF)
        margin_P = differences_PF @ weights_F
        gradient_F = RIDGE * weights_F - (differences_PF / (1 + np.exp(margin_P))[:, None]).mean(axis=0)
        assert np.abs(gradient_F).max() < 1e-6


def test_separable_pairs_have_a_finite_solution() -> None:
    weights_F = fit_ranking(np.array([[1.0, 0.5]] * 10))
    assert np.isfinite(weights_F).all()
    assert weights_F[0] > weights_F[1] > 0
