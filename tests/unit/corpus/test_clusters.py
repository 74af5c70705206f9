"""k-means on planted clusters, and the uniform draw."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from kdmt.corpus.clusters import KMeans, assign_all, choose_by_clusters, draw_uniformly, learn_centres, nearest
from kdmt.errors import UserError

SIZES = (1000, 300, 50, 20)


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings around four directions, in random order and of random lengths, and their clusters."""
    rng = np.random.default_rng(seed)
    labels_N = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    rows_ND = np.eye(len(SIZES), 16)[labels_N] + rng.normal(0, 0.05, (len(labels_N), 16))
    return (rows_ND * rng.uniform(0.1, 10, (len(labels_N), 1))).astype(np.float32), labels_N


@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_are_recovered(seed: int) -> None:
    rows_ND, labels_N = planted(seed)
    settings = KMeans(len(SIZES), seed, batches=10)
    found_N = assign_all(rows_ND, learn_centres(rows_ND, settings, np.random.default_rng(seed)))
    pairs = set(zip(labels_N.tolist(), found_N.tolist(), strict=True))
    assert len(pairs) == len(SIZES)
    assert len({cluster for _, cluster in pairs}) == len(SIZES)


def test_lines_are_drawn_uniformly_over_the_clusters_and_repeat_with_the_seed() -> None:
    rows_ND, labels_N = planted()
    chosen = choose_by_clusters(rows_ND, 120, KMeans(4, seed=3, batches=10))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    # the cluster of 20 lines gives all, the others share the rest
    counts = Counter(labels_N[chosen].tolist())
    assert counts[3] == 20
    assert sorted(counts[i] for i in range(3)) == [33, 33, 34]
    assert chosen.tolist() == choose_by_clusters(rows_ND, 120, KMeans(4, seed=3, batches=10)).tolist()
    assert chosen.tolist() != choose_by_clusters(rows_ND, 120, KMeans(4, seed=4, batches=10)).tolist()


def test_every_line_of_a_cluster_is_as_likely() -> None:
    labels_N = np.array([0] * 4 + [1] * 2, dtype=np.int32)
    drawn = Counter(int(i) for seed in range(4000) for i in draw_uniformly(labels_N, 2, np.random.default_rng(seed)))
    assert all(abs(drawn[i] / 4000 - (0.25 if i < 4 else 0.5)) < 0.03 for i in range(6))
    assert draw_uniformly(labels_N, 10, np.random.default_rng(0)).tolist() == list(range(6))


def test_the_nearest_centre_has_the_smallest_distance() -> None:
    rng = np.random.default_rng(1)
    rows_BD, centres_KD = rng.normal(size=(50, 5)).astype(np.float32), rng.normal(size=(7, 5)).astype(np.float32)
    distances_BK = ((rows_BD[:, None, :] - centres_KD[None, :, :]) ** 2).sum(axis=2)
    assert nearest(rows_BD, centres_KD).tolist() == distances_BK.argmin(axis=1).tolist()


def test_equal_lines_and_zeros_do_not_fail() -> None:
    rows_ND = np.zeros((10, 3), dtype=np.float16)
    assert len(choose_by_clusters(rows_ND, 4, KMeans(3, batches=2))) == 4


def test_bad_embeddings_are_refused() -> None:
    rows_ND = np.ones((10, 3), dtype=np.float32)
    with pytest.raises(UserError, match="10 lines for 11 clusters"):
        choose_by_clusters(rows_ND, 4, KMeans(11))
    rows_ND[6, 1] = np.nan
    with pytest.raises(UserError, match="line 7 has a value that is not finite"):
        choose_by_clusters(rows_ND, 4, KMeans(2))
