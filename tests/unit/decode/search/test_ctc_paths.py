"""Tests of decoding the output of a CTC model to a sentence."""

from __future__ import annotations

from itertools import pairwise, product

import nat_oracles as oracle
import numpy as np
import pytest

from kdmt.decode.search.ctc_paths import Fusion, collapse, prefix_beam_search

V = 3


def log_probs(length: int, seed: int, peak: float = 1.0) -> np.ndarray:
    logits = peak * np.random.default_rng(seed).normal(size=(length, V + 1))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_collapse_removes_repetitions_and_blanks() -> None:
    assert collapse([9, 9, 4, 4, 9, 4, 5, 5], blank=9) == (4, 4, 5)
    assert collapse([9, 9], blank=9) == ()
    assert collapse([4, 5, 4], blank=9) == (4, 5, 4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("length", [1, 3, 5])
def test_an_unlimited_prefix_beam_finds_the_most_probable_output(length: int, seed: int) -> None:
    given = log_probs(length, seed)
    expected, score = oracle.ctc_best_output(given, V)
    found, own_score = prefix_beam_search(given, blank=V, beam=10_000, candidates=V + 1)
    assert found == expected
    assert own_score == pytest.approx(score, rel=1e-12)


def test_a_narrow_beam_gives_a_lower_bound() -> None:
    """Check the score of the output, which sums only some of its alignments."""
    for seed in range(10):
        given = log_probs(6, seed, peak=0.5)
        _, best = oracle.ctc_best_output(given, V)
        for beam, candidates in ((1, 2), (2, 3), (5, 4)):
            found, score = prefix_beam_search(given, blank=V, beam=beam, candidates=candidates)
            assert score <= oracle.ctc_log_likelihood(given, found, V) + 1e-12
            assert score <= best + 1e-12


class Bigrams:
    """Bigram language model, whose state is the last token."""

    def __init__(self, seed: int) -> None:
        table = np.random.default_rng(seed).normal(size=(V + 1, V + 1))
        self.log_probs = table - np.log(np.exp(table).sum(1, keepdims=True))  # V: start and end of a sentence

    def start(self) -> int:
        return V

    def extend(self, state: int, token: int) -> tuple[int, float]:
        return token, float(self.log_probs[state, token])

    def end(self, state: int) -> float:
        return float(self.log_probs[state, V])

    def whole(self, output: tuple[int, ...]) -> float:
        return float(sum(self.log_probs[pair] for pair in pairwise([V, *output, V])))


@pytest.mark.parametrize("seed", range(6))
def test_a_language_model_is_added_to_the_probability_of_each_output(seed: int) -> None:
    given, model = log_probs(4, seed), Bigrams(seed)
    expected: dict[tuple[int, ...], float] = {}
    for length in range(5):
        for output in product(range(V), repeat=length):
            score = oracle.ctc_log_likelihood(given, output, V) if output else float(given[:, V].sum())
            if score > -np.inf:
                expected[output] = score + 0.7 * model.whole(output) + 0.3 * length
    found, score = prefix_beam_search(
        given, blank=V, beam=10_000, candidates=V + 1, fusion=Fusion(model, weight=0.7, bonus=0.3)
    )
    assert found == max(expected, key=lambda output: expected[output])
    assert score == pytest.approx(expected[found], rel=1e-9)
