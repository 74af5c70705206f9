"""Tests of mask-predict in batches, compared with the sequential definition."""

from __future__ import annotations

import random

import nat_oracles as oracle
import pytest
import torch
from torch import Tensor

from kdmt.decode.search.mask_predict import mask_predict, refine
from kdmt.types import EOS, PAD, UNK

LENGTHS = [6, 1, 3, 9, 4]  # numbers of words


def answer(tokens: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """Return the tokens and probabilities of a model: random values that depend only on the whole sequence."""
    rng = random.Random(str(tokens))
    return [rng.randint(4, 9) for _ in tokens], [rng.choice([0.1, 0.2, 0.3, 0.4, 0.9]) for _ in tokens]


def predict(tokens_NT: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    words, log_probs = torch.full_like(tokens_NT, 3), torch.zeros(tokens_NT.shape, dtype=torch.float64)
    for row, length in enumerate(LENGTHS[each] for each in rows.tolist()):
        assert int(tokens_NT[row, length]) == EOS
        assert (tokens_NT[row, length + 1 :] == PAD).all()
        found, probabilities = answer(tuple(tokens_NT[row, :length].tolist()))
        words[row, :length] = torch.tensor(found)
        log_probs[row, :length] = torch.tensor(probabilities, dtype=torch.float64).log()
    return words, log_probs


@pytest.mark.parametrize("iterations", [1, 2, 4, 9, 10])  # 9: the length of the longest sentence
def test_mask_predict_equals_the_sequential_definition(iterations: int) -> None:
    filled = mask_predict(predict, torch.tensor(LENGTHS) + 1, iterations=iterations)
    for row, length in enumerate(LENGTHS):
        expected = oracle.mask_predict(answer, length, iterations, UNK)[-1]
        assert tuple(filled.tokens_NT[row, :length].tolist()) == expected
        assert float(filled.log_probs_NT[row, length:].abs().sum()) == 0.0
        # one pass for each iteration in which at least one word is masked
        assert int(filled.steps_N[row]) == sum(length * (iterations - t) // iterations > 0 for t in range(iterations))


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_a_model_that_corrects_predicts_all_words_in_each_pass(iterations: int) -> None:
    filled = mask_predict(predict, torch.tensor(LENGTHS) + 1, iterations=iterations, rewrites=True)
    for row, length in enumerate(LENGTHS):
        tokens, probabilities = [UNK] * length, [0.0] * length
        for iteration in range(iterations):
            count = length * (iterations - iteration) // iterations
            hidden = sorted(range(length), key=lambda place: (probabilities[place], place))[:count]
            if hidden:
                tokens, probabilities = answer(
                    tuple(UNK if place in hidden else tokens[place] for place in range(length))
                )
        assert filled.tokens_NT[row, :length].tolist() == tokens


@pytest.mark.parametrize("iterations", [1, 2, 10])
def test_refinement_ends_when_a_draft_does_not_change(iterations: int) -> None:
    def settle(tokens_NT: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return 6 for each masked word, and move other words towards 9 by one in each pass."""
        words = torch.where(tokens_NT.eq(UNK), 6, (tokens_NT + 1).clamp_max(9 - rows[:, None] % 2))
        return words, torch.zeros(words.shape)

    filled = refine(settle, torch.tensor(LENGTHS) + 1, iterations=iterations)
    for row, length in enumerate(LENGTHS):
        last = 9 - row % 2
        assert filled.tokens_NT[row, :length].tolist() == [min(5 + iterations, last)] * length
        assert int(filled.tokens_NT[row, length]) == EOS
        assert int(filled.steps_N[row]) == min(iterations, last - 6 + 2)  # the last pass makes no changes
