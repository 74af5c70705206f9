"""Tests of the selection rules among a sentence's hypotheses, against sacreBLEU and their definitions."""

from __future__ import annotations

import math
import pickle

import pytest
from candidate_lists import candidates_of, chosen, texts_of_a_sentence
from hypothesis import given
from hypothesis import strategies as st

from kdmt.distill.mbr import ExpectedUtility, bleu_utility, by_expected_utility
from kdmt.distill.selection import BEST, HIGHEST_GIVEN, Candidate, Line, interpolated, weighted
from kdmt.distill.similarity import bleu_nearness, chrf_nearness
from kdmt.score.metrics import sentence_bleu, sentence_chrf


@given(texts_of_a_sentence, st.sampled_from(["ein Haus .", "eine haus groß ein", "x"]))
def test_interpolation_equals_sacrebleu(texts: list[str], reference: str) -> None:
    by_bleu = [sentence_bleu(text, reference).value for text in texts]
    by_chrf = [sentence_chrf(text, reference).value for text in texts]
    candidates = candidates_of(texts)
    assert chosen(interpolated(bleu_nearness("13a")), candidates, reference) == by_bleu.index(max(by_bleu))
    assert chosen(interpolated(chrf_nearness), candidates, reference) == by_chrf.index(max(by_chrf))


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=6))
def test_highest_external_score_is_chosen(scores: list[float]) -> None:
    candidates = [Candidate(str(position), -1.0, 2, (score,)) for position, score in enumerate(scores)]
    assert chosen(HIGHEST_GIVEN, candidates) == scores.index(max(scores))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_missing_score_is_refused(position: int) -> None:
    scores = [1.0, 2.0, 3.0]
    scores[position] = math.nan
    with pytest.raises(ValueError, match=rf"^hypothesis {position + 1} of 3 has no score$"):
        HIGHEST_GIVEN.choose([Candidate("a", -1.0, 2, (score,)) for score in scores], Line())
    with pytest.raises(ValueError, match="hypothesis 1 of 1 has no score"):
        HIGHEST_GIVEN.choose([Candidate("a", -1.0, 2)], Line())


def test_rules_can_be_pickled() -> None:
    candidates = [Candidate(words, -1.0, 3, (given,)) for words, given in [("a", 1.0), ("c d", 2.0), ("c", 0.0)]]
    by_probability = ExpectedUtility(bleu_utility("13a"), "probability", lenpen=0.6)
    rules = (
        *(BEST, HIGHEST_GIVEN, weighted(1.0), by_expected_utility(), by_expected_utility(by_probability, top=2)),
        *(interpolated(chrf_nearness), interpolated(bleu_nearness("none"))),
    )
    line = Line(reference="c d")
    for rule in rules:
        assert pickle.loads(pickle.dumps(rule)).choose(candidates, line) == rule.choose(candidates, line)
