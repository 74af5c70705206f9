"""Tests of the low-rank transition matrix of NAT-CRF."""

from __future__ import annotations

import pytest
import torch

from kdmt.losses.crf import candidate_transitions
from kdmt.models.transitions import Transitions


def test_candidate_transitions_equal_entries_of_the_matrix() -> None:
    torch.manual_seed(1)
    transitions = Transitions(vocab_size=7, rank=3)
    whole = transitions.first.weight @ transitions.second.weight.t()
    ids = torch.tensor([[[4, 1], [0, 6], [5, 5]]])
    moves = candidate_transitions(*transitions(ids))
    assert moves.shape == (1, 2, 2, 2)
    for step in range(2):
        for own in range(2):
            for other in range(2):
                expected = whole[ids[0, step, own], ids[0, step + 1, other]]
                torch.testing.assert_close(moves[0, step, own, other], expected)


def test_factors_are_initialised_like_embeddings() -> None:
    torch.manual_seed(1)
    transitions = Transitions(vocab_size=2000, rank=16)
    assert float(transitions.first.weight.detach().std()) == pytest.approx(16**-0.5, rel=0.05)
