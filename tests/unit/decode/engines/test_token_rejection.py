"""Tests of sampling by rejection of tokens, with an engine that draws from tables."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_parameters import some_of

from kdmt.decode.engines.token_rejection import Rejection, Row, truncated
from kdmt.decode.search import sampling as torch_sampling
from kdmt.types import EOS, PAD, Sampling

VOCAB = 7
TABLES = np.random.default_rng(3).normal(scale=1.2, size=(50, VOCAB)).astype(np.float32)
SAMPLES = 2000


def logits_after(prefix: tuple[int, ...]) -> np.ndarray:
    return TABLES[hash(prefix) % len(TABLES)]


def draw(prefix: list[int], steps: int, rule: Rejection) -> tuple[list[int], np.ndarray]:
    """Draw a continuation like an engine: with temperature and top-k alone, also <pad>, and </s> as the first token."""
    top_k = rule.engine_top_k
    tokens, logits = list(prefix), []
    while len(tokens) < steps and (not tokens or tokens[-1] != EOS):
        logits.append(logits_after(tuple(tokens)))
        probs = np.exp(logits[-1].astype(np.float64) / rule.sampling.temperature)
        if top_k:
            probs[np.argsort(-probs)[top_k:]] = 0
        tokens.append(int(rule.generator.choice(VOCAB, p=probs / probs.sum())))
    return tokens[len(prefix) :], np.stack(logits)


def sample(sampling: Sampling, max_len: int, generator: np.random.Generator, top_k: int = 3) -> Row:
    rule, row = Rejection(sampling, EOS, PAD, generator, top_k), Row(0, max_len)
    while not row.has_ended:
        rule.extend(row, *draw(row.tokens, max_len + 1, rule))
    return row


def restricted(prefix: tuple[int, ...], sampling: Sampling) -> list[float]:
    """Return the restricted distribution from its definition."""
    logits = logits_after(prefix).astype(np.float64)
    logits[[PAD] if prefix else [PAD, EOS]] = -np.inf
    probs = np.exp(logits / sampling.temperature)
    probs /= probs.sum()
    if sampling.top_k or sampling.top_p < 1:
        inside = sorted(range(VOCAB), key=lambda token: -probs[token])[: sampling.top_k or VOCAB]
        whole, mass, nucleus = sum(probs[inside]), 0.0, list[int]()
        for token in inside:
            if mass < sampling.top_p:
                nucleus.append(token)
            mass += probs[token] / whole
        outside = [token for token in range(VOCAB) if token not in nucleus]
    else:
        outside = []
    least = min(max(sampling.epsilon, sampling.min_p * probs.max()), probs.max())
    probs[probs < least] = 0
    probs[outside] = 0
    return (probs / probs.sum()).tolist()


@pytest.mark.parametrize(
    ("sampling", "top_k"),
    some_of(
        [
            (Sampling(epsilon=0.15), 3),
            (Sampling(epsilon=0.02), 1),
            (Sampling(epsilon=0.02), 3),
            (Sampling(epsilon=0.1, temperature=1.6), 8),
            (Sampling(min_p=0.3, temperature=0.7), 2),
            (Sampling(), 4),
            (Sampling(top_k=3, epsilon=0.1), 2),
            (Sampling(top_p=0.6, min_p=0.05), 3),
        ],
        3,
    ),
    ids=str,
)
def test_frequencies_are_those_of_the_wanted_distribution(sampling: Sampling, top_k: int) -> None:
    """Check the chi-squared statistic of all translations of at most two tokens, whatever the engine draws from."""
    exact: dict[tuple[int, ...], float] = {}
    for first, p in enumerate(restricted((), sampling)):
        for second, q in enumerate(restricted((first,), sampling)):
            ended = (first, EOS) if second == EOS else (first, second, EOS)
            exact[ended] = exact.get(ended, 0.0) + p * q
    generator = np.random.default_rng(1)
    counts = Counter(tuple(sample(sampling, 2, generator, top_k).tokens) for _ in range(SAMPLES))
    assert {tokens for tokens, p in exact.items() if p == 0}.isdisjoint(counts)
    expected = {tokens: p * SAMPLES for tokens, p in exact.items() if p}
    squares = sum((counts[tokens] - number) ** 2 / number for tokens, number in expected.items())
    assert squares < len(expected) + 5 * math.sqrt(2 * len(expected))


def test_log_probabilities_are_those_of_the_model() -> None:
    generator = np.random.default_rng(2)
    for _ in range(200):
        row = sample(Sampling(epsilon=0.12, min_p=0.2), 4, generator)
        assert len(row.tokens) <= 5
        for place, (token, log_prob) in enumerate(zip(row.tokens, row.log_probs, strict=True)):
            logits = logits_after(tuple(row.tokens[:place])).astype(np.float64)
            assert log_prob == pytest.approx(logits[token] - np.log(np.exp(logits).sum()), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=12),
    st.sampled_from([0.0, 0.03, 0.3, 0.95]),
    st.sampled_from([0.0, 0.2, 0.99]),
    st.sampled_from([0, 1, 2, 5]),
    st.sampled_from([0.2, 0.8, 1.0]),
    st.sampled_from([0.6, 1.0, 3.0]),
)
def test_the_distribution_is_that_of_pytorch(
    logits: list[float], epsilon: float, min_p: float, top_k: int, top_p: float, temperature: float
) -> None:
    sampling = Sampling(temperature, top_k, top_p, epsilon, min_p)
    array = np.array(logits, dtype=np.float64)
    expected = torch_sampling.truncated(torch.from_numpy(array)[None], sampling)[0].numpy()
    np.testing.assert_allclose(truncated(array / temperature, sampling), expected, atol=1e-12)


def test_few_tokens_are_replaced_if_the_engine_draws_from_few() -> None:
    def num_calls(top_k: int) -> int:
        generator, calls = np.random.default_rng(1), 0
        rule = Rejection(Sampling(epsilon=0.1), EOS, PAD, generator, top_k)
        for _ in range(300):
            row = Row(0, 4)
            while not row.has_ended:
                rule.extend(row, *draw(row.tokens, 5, rule))
                calls += 1
        return calls

    assert 300 < num_calls(4) < num_calls(VOCAB)
