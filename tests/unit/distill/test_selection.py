"""The rules of choice among a sentence's hypotheses, minimum Bayes risk against its definition by sacreBLEU."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.distill.mbr import by_expected_chrf, expected_chrf
from kdmt.distill.selection import BEST, HIGHEST_GIVEN, Candidate, Selector, interpolated, weighted
from kdmt.distill.similarity import bleu_nearness, chrf_nearness
from kdmt.score.metrics import sentence_bleu, sentence_chrf

texts_of_a_sentence = st.lists(
    st.lists(st.sampled_from(["ein", "eine", "Haus", "haus", "groß", "."]), min_size=1, max_size=6).map(" ".join),
    min_size=1,
    max_size=7,
)


def candidates_of(texts: Sequence[str], log_probs: Sequence[float] | None = None) -> list[Candidate]:
    log_probs = [-1.0] * len(texts) if log_probs is None else log_probs
    return [Candidate(text, log_prob / 3, 3) for text, log_prob in zip(texts, log_probs, strict=True)]


def chosen(selector: Selector, candidates: Sequence[Candidate], reference: str = "") -> int:
    """The place of the one that is chosen."""
    ((candidate, weight),) = selector.choose(candidates, reference)
    assert weight == 1.0
    assert not selector.weighs
    return next(place for place, each in enumerate(candidates) if each is candidate)


def first_of_highest(scores: Sequence[float]) -> int:
    return next(place for place, score in enumerate(scores) if score >= max(scores) - 1e-9)


# ------------------------------------------------------------------------------------------------- minimum Bayes risk


@given(texts_of_a_sentence)
def test_the_highest_mean_chrf_against_the_others(texts: list[str]) -> None:
    means = [
        math.fsum(sentence_chrf(text, other).value for j, other in enumerate(texts) if j != i) / max(len(texts) - 1, 1)
        for i, text in enumerate(texts)
    ]
    assert chosen(by_expected_chrf(), candidates_of(texts)) == first_of_highest(means)


@given(texts_of_a_sentence, st.data())
def test_each_by_its_probability(texts: list[str], data: st.DataObject) -> None:
    log_probs = data.draw(st.lists(st.floats(-9, 0), min_size=len(texts), max_size=len(texts)))
    total = math.fsum(map(math.exp, log_probs))
    shares = [math.exp(log_prob) / total for log_prob in log_probs]
    expected = [
        math.fsum(share * sentence_chrf(text, other).value for share, other in zip(shares, texts, strict=True))
        for text in texts
    ]
    assert expected_chrf(texts, shares) == pytest.approx(expected, abs=1e-9)
    # where two are as near as rounding either may be chosen
    assert expected[chosen(by_expected_chrf(1.0), candidates_of(texts, log_probs))] >= max(expected) - 1e-8


def test_the_likeliest_counts_most() -> None:
    texts = ["eine kleine Katze", "der große Hund", "der große Hund da"]
    assert chosen(by_expected_chrf(), candidates_of(texts)) != 0
    assert chosen(by_expected_chrf(1.0), candidates_of(texts, [-0.1, -5.0, -5.0])) == 0


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a"], 0),
        (["ab", "ab", "ab"], 0),
        (["ab", "ba", "ab"], 0),
        (["ba", "ab"], 0),  # each as like the other
        (["xyz", "a b", "ab"], 1),  # whitespace does not count
        (["xyz", "abc", "abcd", "abcde"], 3),  # recall counts more than precision
        (["", "ab"], 1),
        (["", " "], 0),
    ],
)
def test_of_equals_the_first(texts: list[str], expected: int) -> None:
    assert chosen(by_expected_chrf(), candidates_of(texts)) == expected


def test_the_order_of_many_equals_does_not_matter() -> None:
    texts = ["der große Hund", "ein großer Hund", "der Hund"] * 20
    values = expected_chrf(texts)
    assert np.array_equal(values, np.tile(values[:3], 20))
    assert values[:3] == pytest.approx(expected_chrf(texts[:3]), abs=1e-9)


# --------------------------------------------------------------------------------------------------------- other rules


@given(texts_of_a_sentence, st.sampled_from(["ein Haus .", "eine haus groß ein", "x"]))
def test_interpolation_is_as_sacrebleu_has_it(texts: list[str], reference: str) -> None:
    by_bleu = [sentence_bleu(text, reference).value for text in texts]
    by_chrf = [sentence_chrf(text, reference).value for text in texts]
    candidates = candidates_of(texts)
    assert chosen(interpolated(bleu_nearness("13a")), candidates, reference) == by_bleu.index(max(by_bleu))
    assert chosen(interpolated(chrf_nearness), candidates, reference) == by_chrf.index(max(by_chrf))


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=6))
def test_the_highest_score_given(scores: list[float]) -> None:
    candidates = [Candidate(str(place), -1.0, 2, score) for place, score in enumerate(scores)]
    assert chosen(HIGHEST_GIVEN, candidates) == scores.index(max(scores))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_score_that_is_missing(place: int) -> None:
    scores = [1.0, 2.0, 3.0]
    scores[place] = math.nan
    with pytest.raises(ValueError, match=rf"^hypothesis {place + 1} of 3 has no score$"):
        HIGHEST_GIVEN.choose([Candidate("a", -1.0, 2, score) for score in scores], "")
    with pytest.raises(ValueError, match="hypothesis 1 of 1 has no score"):
        HIGHEST_GIVEN.choose([Candidate("a", -1.0, 2)], "")


def test_processes_can_share_the_rules() -> None:
    candidates = [Candidate("a b", -0.5, 3, 1.0), Candidate("b c", -0.6, 3, 2.0), Candidate("c d", -0.7, 3, 0.0)]
    rules = (
        *(BEST, HIGHEST_GIVEN, weighted(1.0), by_expected_chrf(), by_expected_chrf(0.6)),
        *(interpolated(chrf_nearness), interpolated(bleu_nearness("none"))),
    )
    for rule in rules:
        assert pickle.loads(pickle.dumps(rule)).choose(candidates, "c d") == rule.choose(candidates, "c d")
