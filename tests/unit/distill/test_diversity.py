"""Tests of the choice of diverse targets against a plain greedy search with sacreBLEU's chrF."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from candidate_lists import candidates_of, texts_of_a_sentence
from hypothesis import given
from hypothesis import strategies as st

from kdmt.distill.diversity import diverse, token_probability
from kdmt.distill.mbr import ExpectedUtility
from kdmt.distill.selection import Candidate, Line
from kdmt.score.metrics import sentence_chrf


def greedy(texts: Sequence[str], quality: Sequence[float], targets: int, balance: float) -> list[float]:
    """Return the margins of the targets that a greedy search chooses; choices of equal margins may differ."""
    left = list(dict.fromkeys("".join(text.split()) for text in texts))
    value = {}
    for text, each in zip(texts, quality, strict=True):
        value.setdefault("".join(text.split()), each)
    chosen: list[str] = []
    margins = []
    while left and len(chosen) < targets:
        margin = {
            text: balance * value[text] - (1 - balance) * max(sentence_chrf(text, other).value for other in chosen)
            if chosen
            else value[text]
            for text in left
        }
        best = next(text for text in left if margin[text] >= max(margin.values()) - 1e-9)
        margins.append(margin[best])
        chosen.append(best)
        left.remove(best)
    return margins


@given(texts_of_a_sentence, st.integers(2, 5), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_targets_equal_those_of_a_plain_greedy_search(texts: list[str], targets: int, balance: float) -> None:
    candidates, expected = candidates_of(texts), ExpectedUtility()
    choices = diverse(expected, targets=targets, balance=balance).choose(candidates, Line())
    margins = [choice.values[0] for choice in choices]
    assert margins == pytest.approx(greedy(texts, expected(candidates).tolist(), targets, balance), abs=1e-7)
    chosen = ["".join(texts[choice.index].split()) for choice in choices]
    assert len(set(chosen)) == len(chosen)


def test_the_balance_decides_between_quality_and_difference() -> None:
    texts = ["ein großer Hund", "ein großer Hund da", "zwei kleine Katzen"]
    scores = [-0.1, -0.2, -1.0]
    candidates = [Candidate(text, score, 3) for text, score in zip(texts, scores, strict=True)]
    quality = partial(token_probability, lenpen=1.0)
    by_quality = diverse(quality, targets=2, balance=1.0).choose(candidates, Line())
    by_difference = diverse(quality, targets=2, balance=0.3).choose(candidates, Line())
    assert [choice.index for choice in by_quality] == [0, 1]
    assert [choice.index for choice in by_difference] == [0, 2]
    assert by_quality[1].values[1] == pytest.approx(100 * math.exp(-0.2))
    assert by_quality[1].values[2] == pytest.approx(sentence_chrf(texts[1], texts[0]).value)


def test_token_probability_does_not_depend_on_the_length_penalty() -> None:
    log_probs, lengths = [-3.0, -8.0], [3, 4]
    for lenpen in (0.0, 0.6, 1.0):
        candidates = [
            Candidate("a", log_prob / length**lenpen, length)
            for log_prob, length in zip(log_probs, lengths, strict=True)
        ]
        expected = [100 * math.exp(-1), 100 * math.exp(-2)]
        np.testing.assert_allclose(token_probability(candidates, lenpen=lenpen), expected)
    assert token_probability([Candidate("a", math.nan, 3, system=1)], lenpen=1.0).tolist() == [0.0]


def test_the_rule_can_be_pickled() -> None:
    candidates = candidates_of(["a b", "a c", "d"])
    for quality in (ExpectedUtility(), partial(token_probability, lenpen=0.6)):
        rule = diverse(quality, targets=2, balance=0.5)
        assert pickle.loads(pickle.dumps(rule)).choose(candidates, Line()) == rule.choose(candidates, Line())
