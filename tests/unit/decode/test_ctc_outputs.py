"""From a CTC decoder's output to a sentence."""

from __future__ import annotations

import nat_oracles as oracle
import numpy as np
import pytest

from kdmt.decode.ctc import collapse, prefix_beam_search

V = 3


def log_probs(length: int, seed: int, peak: float = 1.0) -> np.ndarray:
    logits = peak * np.random.default_rng(seed).normal(size=(length, V + 1))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_collapse() -> None:
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
    """What it finds is an output, and of its alignments it has some."""
    for seed in range(10):
        given = log_probs(6, seed, peak=0.5)
        _, best = oracle.ctc_best_output(given, V)
        for beam, candidates in ((1, 2), (2, 3), (5, 4)):
            found, score = prefix_beam_search(given, blank=V, beam=beam, candidates=candidates)
            assert score <= oracle.ctc_log_likelihood(given, found, V) + 1e-12
            assert score <= best + 1e-12
