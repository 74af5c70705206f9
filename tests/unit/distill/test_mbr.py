"""Tests of minimum Bayes risk decoding against its definition with sacreBLEU's chrF."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from candidate_lists import candidates_of, chosen, texts_of_a_sentence
from hypothesis import given
from hypothesis import strategies as st

from kdmt.distill.mbr import CHRF, ExpectedUtility, Utility, bleu_utility, by_expected_utility
from kdmt.distill.selection import Candidate, Line
from kdmt.distill.similarity import mean_chrf
from kdmt.score.metrics import sentence_chrf


def first_of_highest(scores: Sequence[float]) -> int:
    return next(position for position, score in enumerate(scores) if score >= max(scores) - 1e-9)


@given(texts_of_a_sentence)
def test_choice_has_highest_mean_chrf_against_the_others(texts: list[str]) -> None:
    means = [
        math.fsum(sentence_chrf(text, other).value for j, other in enumerate(texts) if j != i) / max(len(texts) - 1, 1)
        for i, text in enumerate(texts)
    ]
    assert chosen(by_expected_utility(), candidates_of(texts)) == first_of_highest(means)


@given(texts_of_a_sentence, st.data())
def test_hypotheses_are_weighted_by_probability(texts: list[str], data: st.DataObject) -> None:
    log_probs = data.draw(st.lists(st.floats(-9, 0), min_size=len(texts), max_size=len(texts)))
    total = math.fsum(map(math.exp, log_probs))
    shares = [math.exp(log_prob) / total for log_prob in log_probs]
    expected = [
        math.fsum(share * sentence_chrf(text, other).value for share, other in zip(shares, texts, strict=True))
        for text in texts
    ]
    by_probability = ExpectedUtility(weights="probability")
    assert by_probability(candidates_of(texts, log_probs)) == pytest.approx(expected, abs=1e-9)
    # of two values that differ only by rounding, either may be chosen
    assert (
        expected[chosen(by_expected_utility(by_probability), candidates_of(texts, log_probs))] >= max(expected) - 1e-8
    )


def test_most_probable_hypothesis_has_most_weight() -> None:
    texts = ["eine kleine Katze", "der große Hund", "der große Hund da"]
    assert chosen(by_expected_utility(), candidates_of(texts)) != 0
    assert (
        chosen(by_expected_utility(ExpectedUtility(weights="probability")), candidates_of(texts, [-0.1, -5.0, -5.0]))
        == 0
    )


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
    assert chosen(by_expected_utility(), candidates_of(texts)) == expected


def test_repeated_hypotheses_have_equal_values() -> None:
    texts = ["der große Hund", "ein großer Hund", "der Hund"] * 20
    values = ExpectedUtility()(candidates_of(texts))
    assert np.array_equal(values, np.tile(values[:3], 20))
    assert values[:3] == pytest.approx(ExpectedUtility()(candidates_of(texts[:3])), abs=1e-9)


# ------------------------------------------------------------------------------------ weights, several targets, pruning


def shared_letters(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return an asymmetric utility that is easy to compute: the share of the reference's letters in the hypothesis."""
    rows = [[len(set(each) & set(other)) / max(len(set(other)), 1) for other in references] for each in hypotheses]
    return 100 * np.array(rows)


LETTERS = Utility(shared_letters)


def test_a_utility_is_used_in_its_direction_and_with_its_weights() -> None:
    candidates = [Candidate("ab", -1.0, 2, count=0), Candidate("abcd", -1.0, 2, count=3), Candidate("c", -1.0, 2)]
    # against ab, abcd, c: ab 1, .5, 0; abcd 1, 1, 1; c 0, .25, 1
    equal = ExpectedUtility(LETTERS)(candidates)
    assert equal.tolist() == pytest.approx([50, 100, 125 / 3])
    drawn = ExpectedUtility(LETTERS, "count")(candidates)
    assert drawn.tolist() == pytest.approx([0.75 * 50, 100, 0.75 * 25 + 25])
    never = [Candidate(each.words, each.score, each.length, count=0) for each in candidates]
    assert ExpectedUtility(LETTERS, "count")(never).tolist() == equal.tolist()


def test_the_best_targets_are_chosen_once_each_and_best_first() -> None:
    candidates = candidates_of(["abcd", "c", "abcd", "ab", "abc"])
    rule = by_expected_utility(ExpectedUtility(LETTERS), top=3)
    choices = rule.choose(candidates, Line())
    assert [choice.index for choice in choices] == [0, 4, 3]
    expected = ExpectedUtility(LETTERS)(candidates)
    assert [choice.values for choice in choices] == [(expected[0],), (expected[4],), (expected[3],)]
    everything = by_expected_utility(ExpectedUtility(LETTERS), top=9).choose(candidates, Line())
    assert [choice.index for choice in everything] == [0, 4, 3, 1]


@given(texts_of_a_sentence, st.integers(1, 7))
def test_pruned_candidates_have_no_value_and_the_others_the_exact_one(texts: list[str], prune: int) -> None:
    candidates = candidates_of(texts)
    exact, pruned = ExpectedUtility()(candidates), ExpectedUtility(prune=prune)(candidates)
    has_value = pruned > -np.inf
    np.testing.assert_allclose(pruned[has_value], exact[has_value], atol=1e-9)
    kept = {"".join(text.split()) for text, kept in zip(texts, has_value, strict=True) if kept}
    distinct = list(dict.fromkeys("".join(text.split()) for text in texts))
    assert len(kept) == min(prune, len(distinct)) or len(distinct) == 1
    coarse = dict(zip(distinct, mean_chrf(distinct, [1 / len(distinct)] * len(distinct)), strict=True))
    if len(set(texts)) == len(distinct) == len(texts):  # equal weights of the distinct texts
        assert min(coarse[text] for text in kept) >= max((coarse[t] for t in coarse if t not in kept), default=0) - 1e-9


@pytest.mark.parametrize("utility", [CHRF, bleu_utility("13a")])
def test_aggregation_uses_the_weights(utility: Utility) -> None:
    texts = ["der große Hund da", "ein kleines Haus da drüben", "ein kleines Haus da"]
    rare = ExpectedUtility(utility, "count", aggregate=True)
    values = {
        count: rare([Candidate(text, -1.0, 2, count=n) for text, n in zip(texts, (count, 1, 1), strict=True)])
        for count in (1, 50)
    }
    assert int(values[1].argmax()) != 0
    assert int(values[50].argmax()) == 0


def test_a_bleu_utility_keeps_spaces() -> None:
    assert ExpectedUtility(bleu_utility("none")).distinct(candidates_of(["a b", "ab"]))[0] == ["a b", "ab"]
    assert ExpectedUtility().distinct(candidates_of(["a b", "ab"]))[0] == ["ab"]
