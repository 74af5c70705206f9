"""Tests of minimum Bayes risk decoding against its definition with sacreBLEU's chrF."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from candidate_lists import candidates_of, chosen, texts_of_a_sentence
from hypothesis import given
from hypothesis import strategies as st

from kdmt.distill.mbr import by_expected_chrf, expected_chrf
from kdmt.score.metrics import sentence_chrf


def first_of_highest(scores: Sequence[float]) -> int:
    return next(position for position, score in enumerate(scores) if score >= max(scores) - 1e-9)


@given(texts_of_a_sentence)
def test_choice_has_highest_mean_chrf_against_the_others(texts: list[str]) -> None:
    means = [
        math.fsum(sentence_chrf(text, other).value for j, other in enumerate(texts) if j != i) / max(len(texts) - 1, 1)
        for i, text in enumerate(texts)
    ]
    assert chosen(by_expected_chrf(), candidates_of(texts)) == first_of_highest(means)


@given(texts_of_a_sentence, st.data())
def test_hypotheses_are_weighted_by_probability(texts: list[str], data: st.DataObject) -> None:
    log_probs = data.draw(st.lists(st.floats(-9, 0), min_size=len(texts), max_size=len(texts)))
    total = math.fsum(map(math.exp, log_probs))
    shares = [math.exp(log_prob) / total for log_prob in log_probs]
    expected = [
        math.fsum(share * sentence_chrf(text, other).value for share, other in zip(shares, texts, strict=True))
        for text in texts
    ]
    assert expected_chrf(texts, shares) == pytest.approx(expected, abs=1e-9)
    # of two values that differ only by rounding, either may be chosen
    assert expected[chosen(by_expected_chrf(1.0), candidates_of(texts, log_probs))] >= max(expected) - 1e-8


def test_most_probable_hypothesis_has_most_weight() -> None:
    texts = ["eine kleine Katze", "der große Hund", "der große Hund da"]
    assert chosen(by_expected_chrf(), candidates_of(texts)) != 0
    assert chosen(by_expected_chrf(1.0), candidates_of(texts, [-0.1, -5.0, -5.0])) == 0


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a"], 0),
        (["ab", "ab", "ab"], 0),
        (["ab", "ba", "ab"], 0),
        (["ba", "ab"], 0),  # equally similar to each other
        (["xyz", "a b", "ab"], 1),  # whitespace does not count
        (["xyz", "abc", "abcd", "abcde"], 3),  # recall counts more than precision
        (["", "ab"], 1),
        (["", " "], 0),
    ],
)
def test_first_of_equal_hypotheses_is_chosen(texts: list[str], expected: int) -> None:
    assert chosen(by_expected_chrf(), candidates_of(texts)) == expected


def test_repeated_hypotheses_have_equal_values() -> None:
    texts = ["der große Hund", "ein großer Hund", "der Hund"] * 20
    values = expected_chrf(texts)
    assert np.array_equal(values, np.tile(values[:3], 20))
    assert values[:3] == pytest.approx(expected_chrf(texts[:3]), abs=1e-9)
