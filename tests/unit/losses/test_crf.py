"""Tests of the conditional random field against enumeration of all sequences."""

from __future__ import annotations

import nat_oracles as oracle
import pytest
import torch
from torch import Tensor

from kdmt.losses.crf import candidate_transitions, crf_best, crf_log_partition, crf_score

V, R = 4, 3
LENGTHS = torch.tensor([4, 1, 3])
TARGETS = torch.tensor([[0, 3, 1, 1], [2, 0, 0, 0], [3, 0, 2, 0]])


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FIRST, SECOND = random(V, R, seed=1), random(V, R, seed=2)
EMISSIONS = random(3, 4, V, seed=3)


def of_candidates(ids_BTK: Tensor) -> tuple[Tensor, Tensor]:
    return EMISSIONS.gather(2, ids_BTK), candidate_transitions(FIRST[ids_BTK], SECOND[ids_BTK])


def test_all_tokens_as_candidates_equal_enumeration() -> None:
    emissions, transitions = of_candidates(torch.arange(V).expand(3, 4, V))
    found = crf_score(emissions, transitions, TARGETS, LENGTHS) - crf_log_partition(emissions, transitions, LENGTHS)
    best_candidates, scores = crf_best(emissions, transitions, LENGTHS)
    matrix = (FIRST @ SECOND.t()).numpy()
    for row, length in enumerate(LENGTHS.tolist()):
        own = EMISSIONS[row, :length].numpy()
        target = TARGETS[row, :length].tolist()
        assert float(found[row]) == pytest.approx(oracle.crf_log_likelihood(own, matrix, target), rel=1e-12)
        best, score = oracle.crf_best(own, matrix)
        assert tuple(best_candidates[row, :length].tolist()) == best
        assert float(scores[row]) == pytest.approx(score, rel=1e-12)


def test_partition_over_some_candidates() -> None:
    ids = torch.tensor([[[0, 2], [3, 1], [1, 0], [1, 3]], [[2, 3]] * 4, [[3, 1], [0, 2], [2, 1], [0, 1]]])
    emissions, transitions = of_candidates(ids)
    found = crf_log_partition(emissions, transitions, LENGTHS)
    matrix = (FIRST @ SECOND.t()).numpy()
    for row, length in enumerate(LENGTHS.tolist()):
        expected = oracle.crf_log_partition_over(ids[row, :length].tolist(), EMISSIONS[row, :length].numpy(), matrix)
        assert float(found[row]) == pytest.approx(expected, rel=1e-12)


def test_gradcheck() -> None:
    ids = torch.arange(V).expand(3, 4, V)

    def loss(emissions: Tensor, first: Tensor, second: Tensor) -> Tensor:
        transitions = candidate_transitions(first[ids], second[ids])
        return crf_score(emissions, transitions, TARGETS, LENGTHS) - crf_log_partition(emissions, transitions, LENGTHS)

    inputs = tuple(each.clone().requires_grad_() for each in (EMISSIONS, FIRST, SECOND))
    assert torch.autograd.gradcheck(loss, inputs)
