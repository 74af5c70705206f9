"""Choice of lines by clusters of their embeddings: k-means, and a uniform draw over the clusters.

Embeddings are compared by their direction. The centres are learnt by mini-batch k-means (Sculley, "Web-Scale K-Means
Clustering", 2010) from centres that greedy k-means++ (Arthur and Vassilvitskii 2007) draws from a sample. Memory does
not depend on the number of lines, except about 40 bytes for each. The same seed gives the same result.

Shapes: N lines, B lines of a batch, K clusters, C candidates for a centre, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdmt.errors import UserError

_SAMPLE_PER_CLUSTER = 5  # lines of the sample for the first centres
_SMALLEST_SAMPLE = 10_000
_BATCH = 4096  # lines; at least twice the number of clusters
_ASSIGNED_AT_ONCE = 1 << 24  # distances

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class KMeans:
    """Settings of k-means.

    Attributes:
        clusters: number of clusters.
        seed: seed of all draws.
        batches: number of batches.
    """

    clusters: int
    seed: int = 1
    batches: int = 100


def choose_by_clusters(embeddings_ND: Floats, count: int, settings: KMeans) -> NDArray[np.int64]:
    """Return the indices of `count` lines in ascending order, drawn uniformly over the clusters.

    Raises:
        UserError: if there are fewer lines than clusters, or a value is not finite.
    """
    rng = np.random.default_rng(settings.seed)
    centres_KD = learn_centres(embeddings_ND, settings, rng)
    return draw_uniformly(assign_all(embeddings_ND, centres_KD), count, rng)


def learn_centres(embeddings_ND: Floats, settings: KMeans, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the centres [K, D].

    Raises:
        UserError: if there are fewer lines than clusters, or a value is not finite.
    """
    num_lines, k = len(embeddings_ND), settings.clusters
    if num_lines < k:
        raise UserError(f"{num_lines:,} lines for {k:,} clusters: choose fewer clusters")
    sample = rng.choice(num_lines, min(num_lines, max(_SMALLEST_SAMPLE, _SAMPLE_PER_CLUSTER * k)), replace=False)
    centres_KD = _first_centres(read_rows(embeddings_ND, np.sort(sample)), k, rng)
    size = min(num_lines, max(_BATCH, 2 * k))
    counts_K = np.zeros(k)
    for _ in range(settings.batches):
        rows_BD = read_rows(embeddings_ND, np.sort(rng.choice(num_lines, size, replace=False)))
        nearest_B = nearest(rows_BD, centres_KD)
        sizes_K = np.bincount(nearest_B, minlength=k)
        found = np.flatnonzero(sizes_K)
        order = np.argsort(nearest_B, kind="stable")
        starts = (np.cumsum(sizes_K) - sizes_K)[found]
        sums = np.add.reduceat(rows_BD[order], starts, axis=0, dtype=np.float64)
        counts_K += sizes_K
        # the centre is the mean of all lines that were assigned to it in any batch
        share = (sizes_K[found] / counts_K[found])[:, None]
        means = sums / sizes_K[found][:, None]
        centres_KD[found] += (share * (means - centres_KD[found])).astype(np.float32)
    return centres_KD


def assign_all(embeddings_ND: Floats, centres_KD: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the nearest centre of each line [N].

    Raises:
        UserError: if a value is not finite.
    """
    labels_N = np.empty(len(embeddings_ND), dtype=np.int32)
    at_once = max(1, _ASSIGNED_AT_ONCE // len(centres_KD))
    for start in range(0, len(labels_N), at_once):
        indices = np.arange(start, min(start + at_once, len(labels_N)))
        labels_N[indices] = nearest(read_rows(embeddings_ND, indices), centres_KD)
    return labels_N


def nearest(rows_BD: NDArray[np.float32], centres_KD: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the index of the nearest centre of each row [B]; the first one of several."""
    halves_K = (centres_KD * centres_KD).sum(axis=1) / 2
    return (halves_K[None, :] - rows_BD @ centres_KD.T).argmin(axis=1)


def draw_uniformly(labels_N: NDArray[np.int32], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the indices of at most `count` lines in ascending order, of each cluster as many as of the others.

    A cluster with too few lines gives all of them, and the others give more. The numbers of two clusters that have
    lines left differ by at most one.
    """
    shuffled = rng.permutation(len(labels_N))
    by_cluster = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    labels = labels_N[by_cluster]
    sizes_K = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes_K) - sizes_K, sizes_K)
    turn_K = rng.permutation(len(sizes_K))
    order = np.lexsort((turn_K[labels], rank))
    return np.sort(by_cluster[order[:count]])


def read_rows(embeddings_ND: Floats, indices: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return some rows, each divided by its length; rows of zeros stay zeros.

    Raises:
        UserError: if a value is not finite; the message has the number of the line.
    """
    rows_BD = np.asarray(embeddings_ND[indices], dtype=np.float32)
    finite = np.isfinite(rows_BD).all(axis=1)
    if not finite.all():
        raise UserError(f"the embedding of line {int(indices[np.argmin(finite)]) + 1} has a value that is not finite")
    lengths_B = np.sqrt((rows_BD.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return (rows_BD / np.where(lengths_B > 0, lengths_B, 1.0)).astype(np.float32)


def _first_centres(rows_BD: NDArray[np.float32], k: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw centres by greedy k-means++.

    A row is drawn with a probability proportional to its squared distance to the nearest centre; of several draws, the
    one that reduces the sum of these distances most becomes a centre.
    """
    squares_B = (rows_BD.astype(np.float64) ** 2).sum(axis=1)
    num_draws = 2 + int(math.log(k))
    chosen = [int(rng.integers(len(rows_BD)))]
    distance_B = _squared_distances(rows_BD, squares_B, chosen)[0]
    while len(chosen) < k:
        distance_B[chosen] = 0.0
        sums_B = np.cumsum(distance_B)
        if sums_B[-1] > 0:
            drawn = np.searchsorted(sums_B, rng.random(num_draws) * sums_B[-1], side="right").clip(max=len(sums_B) - 1)
        else:  # all rows are equal to centres: any other row
            drawn = np.setdiff1d(np.arange(len(rows_BD)), chosen)[:1]
        left_CB = np.minimum(_squared_distances(rows_BD, squares_B, drawn), distance_B)
        best = int(left_CB.sum(axis=1).argmin())
        chosen.append(int(drawn[best]))
        distance_B = left_CB[best]
    return rows_BD[chosen].copy()


def _squared_distances(
    rows_BD: NDArray[np.float32], squares_B: NDArray[np.float64], others: Sequence[int] | NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the squared distances of all rows to some of them [C, B]."""
    products_CB = (rows_BD[others] @ rows_BD.T).astype(np.float64)
    return np.maximum(squares_B[others][:, None] + squares_B - 2 * products_CB, 0.0)
