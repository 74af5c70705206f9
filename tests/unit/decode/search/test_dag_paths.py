"""Tests of paths through a directed acyclic decoder, compared with reference implementations."""

from __future__ import annotations

import math
from collections.abc import Callable

import nat_oracles as oracle
import pytest
import torch
from torch import Tensor

from kdmt.decode.search.dag_paths import Paths, greedy_paths, lookahead_paths, viterbi_paths

V = 3
VERTICES = [6, 4, 1, 2, 5, 7]


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities of tokens [B, L, V] and links [B, L, L], and the numbers of vertices [B]."""
    generator = torch.Generator().manual_seed(seed)
    size, vertices_B = max(VERTICES), torch.tensor(VERTICES)
    inside = torch.arange(size) < vertices_B[:, None]
    allowed = torch.ones(size, size).triu(1).bool() & inside[:, None, :]
    scores = torch.randn(len(VERTICES), size, size, generator=generator, dtype=torch.float64)
    links = scores.masked_fill(~allowed, -math.inf).log_softmax(-1).masked_fill(~allowed, -math.inf)
    tokens = torch.randn(len(VERTICES), size, V, generator=generator, dtype=torch.float64).log_softmax(-1)
    return tokens, links, vertices_B


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("find", "expected"),
    [
        (greedy_paths, oracle.dag_greedy),
        (lookahead_paths, oracle.dag_lookahead),
        (lambda *given: viterbi_paths(*given, beta=1.0), lambda *given: oracle.dag_viterbi(*given, beta=1.0)),
        (lambda *given: viterbi_paths(*given, beta=0.0), lambda *given: oracle.dag_viterbi(*given, beta=0.0)),
        (lambda *given: viterbi_paths(*given, beta=1.3), lambda *given: oracle.dag_viterbi(*given, beta=1.3)),
    ],
)
def test_paths_equal_the_reference(
    find: Callable[..., Paths], expected: Callable[..., tuple[list[int], object, float]], seed: int
) -> None:
    tokens_BLV, links_BLL, vertices_B = batch(seed)
    paths, scores = find(tokens_BLV.amax(-1), links_BLL, vertices_B)
    for row, vertices in enumerate(VERTICES):
        own = tokens_BLV[row, :vertices].numpy(), links_BLL[row, :vertices, :vertices].numpy()
        path, _, score = expected(*own)
        assert paths[row] == path
        assert scores[row] == pytest.approx(score, rel=1e-12)
