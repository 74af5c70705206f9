"""Mask-predict in batches against the sequential definition."""

from __future__ import annotations

import random

import nat_oracles as oracle
import pytest
import torch
from torch import Tensor

from kdmt.decode.mask_predict import mask_predict
from kdmt.types import EOS, PAD, UNK

LENGTHS = [6, 1, 3, 9, 4]  # words


def answer(tokens: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """What some model says of a whole sequence: anything, but always the same of the same one."""
    rng = random.Random(str(tokens))
    return [rng.randint(4, 9) for _ in tokens], [rng.choice([0.1, 0.2, 0.3, 0.4, 0.9]) for _ in tokens]


def predict(tokens_NT: Tensor) -> tuple[Tensor, Tensor]:
    words, log_probs = torch.full_like(tokens_NT, 3), torch.zeros(tokens_NT.shape, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        assert int(tokens_NT[row, length]) == EOS
        assert (tokens_NT[row, length + 1 :] == PAD).all()
        found, probabilities = answer(tuple(tokens_NT[row, :length].tolist()))
        words[row, :length] = torch.tensor(found)
        log_probs[row, :length] = torch.tensor(probabilities, dtype=torch.float64).log()
    return words, log_probs


@pytest.mark.parametrize("iterations", [1, 2, 4, 10])
def test_is_the_sequential_definition(iterations: int) -> None:
    tokens, log_probs = mask_predict(predict, torch.tensor(LENGTHS) + 1, iterations=iterations)
    for row, length in enumerate(LENGTHS):
        expected = oracle.mask_predict(answer, length, iterations, UNK)[-1]
        assert tuple(tokens[row, :length].tolist()) == expected
        assert float(log_probs[row, length:].abs().sum()) == 0.0
