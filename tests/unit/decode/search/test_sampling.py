"""Tests of sampling, compared with a loop over single translations, on the tables of the tests of beam search."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table_steppers import Table, TableStepper, samplings, sentences

from kdmt.decode.search.sampling import sample, truncated
from kdmt.types import EOS, PAD, Hypothesis, Sampling

SAMPLES = 3


def probabilities(logits: list[float], sampling: Sampling, *, forbid_eos: bool) -> list[float]:
    """Return the truncated probabilities by their definition, in plain Python."""
    forbidden = {PAD, EOS} if forbid_eos else {PAD}
    weights = {
        token: math.exp(logit / sampling.temperature) for token, logit in enumerate(logits) if token not in forbidden
    }
    ranked = sorted(weights, key=lambda token: (-weights[token], token))
    whole = sum(weights.values())
    largest = weights[ranked[0]] / whole
    least = min(max(sampling.epsilon, sampling.min_p * largest), largest)
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    total = sum(weights[token] for token in ranked)
    masses = itertools.accumulate(weights[token] / total for token in ranked)
    enough = next((n for n, mass in enumerate(masses, start=1) if mass >= sampling.top_p - 1e-12), len(ranked))
    ranked = [token for token in ranked[:enough] if weights[token] / whole >= least - 1e-15]
    total = sum(weights[token] for token in ranked)
    return [weights[token] / total if token in ranked else 0.0 for token in range(len(logits))]


def draw_one(table: Table, max_len: int, uniforms: list[float], sampling: Sampling, lenpen: float) -> Hypothesis:
    tokens: tuple[int, ...] = ()
    log_probs: list[float] = []
    while True:
        token = EOS
        if len(tokens) < max_len:
            each = probabilities(table.logits(tokens).tolist(), sampling, forbid_eos=not tokens)
            below = itertools.accumulate(each)
            token = next(token for token, mass in enumerate(below) if mass > uniforms[len(tokens)])
        log_probs.append(table.log_probs(tokens)[token])
        if token == EOS:
            return Hypothesis(tokens, sum(log_probs) / len(log_probs) ** lenpen, tuple(log_probs))
        tokens = (*tokens, token)


def run(batch: list[tuple[Table, int]], uniforms: torch.Tensor, sampling: Sampling) -> list[list[Hypothesis]]:
    stepper = TableStepper([table for table, _ in batch], SAMPLES)
    return sample(stepper, max_len_B=[limit for _, limit in batch], uniforms_NT=uniforms, sampling=sampling, lenpen=0.6)


@settings(max_examples=30, deadline=None)
@given(batch=sentences, sampling=samplings, seed=st.integers(0, 1000))
def test_samples_equal_those_of_a_loop_with_the_same_random_numbers(
    batch: list[tuple[Table, int]], sampling: Sampling, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(len(batch) * SAMPLES, 9, generator=generator, dtype=torch.float64)
    found = run(batch, uniforms, sampling)
    for place, (table, limit) in enumerate(batch):
        for row, hypothesis in enumerate(found[place]):
            expected = draw_one(table, limit, uniforms[place * SAMPLES + row].tolist(), sampling, 0.6)
            assert hypothesis.tokens == expected.tokens
            assert hypothesis.score == pytest.approx(expected.score, abs=1e-12)
            assert hypothesis.log_probs == pytest.approx(expected.log_probs, abs=1e-12)
    alone = [
        run([each], uniforms[place * SAMPLES : (place + 1) * SAMPLES], sampling)[0] for place, each in enumerate(batch)
    ]
    assert [[each.tokens for each in nbest] for nbest in alone] == [[each.tokens for each in nbest] for nbest in found]


def test_frequencies_equal_the_probabilities() -> None:
    """Check that in 20,000 samples the count of each first token is within 5 standard deviations of its expectation."""
    table, count = Table(3), 20_000
    uniforms = torch.rand(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found,) = sample(TableStepper([table], count), max_len_B=[1], uniforms_NT=uniforms)
    expected = probabilities(table.logits(()).tolist(), Sampling(), forbid_eos=True)
    for token, p in enumerate(expected):
        times = sum(hypothesis.tokens == (token,) for hypothesis in found)
        assert abs(times - count * p) <= 5 * math.sqrt(count * p * (1 - p))


def test_examples_of_top_p_top_k_and_temperature() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()
    for sampling, expected in (
        (Sampling(top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(top_p=0.7), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(top_p=0.71), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(top_p=0.1), [1, 0, 0, 0]),
        (Sampling(top_k=3, top_p=0.44), [1, 0, 0, 0]),
        (Sampling(top_k=3, top_p=0.45), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (Sampling(epsilon=0.15), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(epsilon=0.5), [1, 0, 0, 0]),
        (Sampling(min_p=0.6), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(min_p=0.6, temperature=0.5), [1, 0, 0, 0]),
        (Sampling(epsilon=0.25, min_p=0.1), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(epsilon=0.25, top_k=3), [4 / 7, 3 / 7, 0, 0]),  # before top-k renormalises
    ):
        torch.testing.assert_close(truncated(logits, sampling)[0], torch.tensor(expected, dtype=torch.float64))
