"""Tests of diverse beam search, compared with a loop over lists that scores all continuations of each prefix."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table_steppers import Table, TableStepper, sentences

from kdmt.decode.search.beam import beam_search
from kdmt.decode.search.diverse_beam import diverse_beam_search
from kdmt.types import EOS, PAD, Hypothesis

LENPEN = 0.6


def reference(table: Table, max_len: int, size: int, groups: int, penalty: float) -> list[Hypothesis]:
    """Search with all groups in plain Python; a prefix is a tuple of tokens with their log-probabilities."""
    live: list[list[tuple[tuple[int, ...], tuple[float, ...]]]] = [[((), ())] for _ in range(groups)]
    done: list[list[Hypothesis]] = [[] for _ in range(groups)]
    for length in range(max_len + 1):
        times = [0] * 8
        for group in range(groups):
            options = []
            for rank, (tokens, log_probs) in enumerate(live[group]):
                for token, log_prob in enumerate(table.log_probs(tokens)):
                    if token == PAD or (token == EOS and length < 1) or (token != EOS and length == max_len):
                        continue
                    total = sum(log_probs, 0.0) + log_prob
                    options.append((-(total - penalty * times[token]), rank, token, total, log_prob))
            options.sort()
            survivors = []
            for place, (_, rank, token, total, log_prob) in enumerate(options[: 2 * size]):
                tokens, log_probs = live[group][rank]
                if token != EOS:
                    survivors.append(((*tokens, token), (*log_probs, log_prob)))
                elif place < size and len(done[group]) < size:
                    score = total / (length + 1) ** LENPEN
                    done[group].append(Hypothesis(tokens, score, (*log_probs, log_prob)))
            live[group] = [] if len(done[group]) >= size or length == max_len else survivors[:size]
            for tokens, _ in live[group]:
                times[tokens[-1]] += 1
    distinct = {hypothesis.tokens: hypothesis for own in done for hypothesis in own}
    return sorted(distinct.values(), key=lambda hypothesis: -hypothesis.score)


def run(batch: list[tuple[Table, int]], size: int, groups: int, penalty: float) -> list[list[Hypothesis]]:
    stepper = TableStepper([table for table, _ in batch], size * groups)
    return diverse_beam_search(
        stepper,
        max_len_B=[limit for _, limit in batch],
        beam=size * groups,
        groups=groups,
        penalty=penalty,
        lenpen=LENPEN,
    )


@settings(max_examples=40, deadline=None)
@given(
    batch=sentences,
    size=st.integers(1, 3),
    groups=st.integers(1, 3),
    penalty=st.sampled_from([0.0, 0.13, 0.7, 50.0]),
)
def test_hypotheses_equal_those_of_a_loop(
    batch: list[tuple[Table, int]], size: int, groups: int, penalty: float
) -> None:
    if any("rounded=True" in repr(table) for table, _ in batch):
        penalty *= math.pi  # so that a penalty is no tie between rounded logits
    for found, (table, limit) in zip(run(batch, size, groups, penalty), batch, strict=True):
        expected = reference(table, limit, size, groups, penalty)
        assert {hypothesis.tokens for hypothesis in found} == {hypothesis.tokens for hypothesis in expected}
        assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-9)
        for hypothesis in found:  # the score is that of the model, without penalties
            tokens = (*hypothesis.tokens, EOS)
            forced = [table.log_probs(tokens[:place])[token] for place, token in enumerate(tokens)]
            assert hypothesis.log_probs == pytest.approx(forced, abs=1e-9)
            assert hypothesis.score == pytest.approx(sum(forced) / len(forced) ** LENPEN, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(batch=sentences, beam=st.integers(1, 4))
def test_one_group_is_beam_search(batch: list[tuple[Table, int]], beam: int) -> None:
    found = run(batch, beam, 1, 1.0)
    stepper = TableStepper([table for table, _ in batch], beam)
    limits = [limit for _, limit in batch]
    expected = beam_search(stepper, max_len_B=limits, beam=beam, nbest=beam, lenpen=LENPEN)
    assert [[each.tokens for each in own] for own in found] == [[each.tokens for each in own] for own in expected]


def test_a_large_penalty_gives_each_group_another_first_token() -> None:
    table = Table(4, vocab_size=8, eos_bias=-1.0)
    first = [{each.tokens[0] for each in run([(table, 5)], 1, groups, 100.0)[0]} for groups in (1, 2, 3)]
    assert [len(tokens) for tokens in first] == [1, 2, 3]
    assert len({each.tokens for each in run([(table, 5)], 1, 3, 1e-9)[0]}) == 1  # without a penalty, all are equal


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"beam \(3\) is no multiple of groups \(2\)"):
        diverse_beam_search(TableStepper([], 3), max_len_B=[], beam=3, groups=2, penalty=0.5)

    class Broken(TableStepper):
        def step(self, last_tokens_N: torch.Tensor) -> torch.Tensor:
            return super().step(last_tokens_N) * math.nan

    with pytest.raises(FloatingPointError):
        diverse_beam_search(Broken([Table(1)], 2), max_len_B=[3], beam=2, groups=2, penalty=0.5)
