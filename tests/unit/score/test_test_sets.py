"""Scores of both forms of a test set's text, compared with sacreBLEU."""

from __future__ import annotations

import pytest
import sacrebleu

from kdmt.score.metrics import DEFAULT_METRICS, METRICS
from kdmt.score.test_sets import References, TestSet

FINISHED, WORDS = ["Der Hund läuft.", "Ein Kind liest!"], ["der hund läuft .", "ein kind liest !"]
FIRST, SECOND = ["Der Hund rennt.", "Ein Kind liest!"], ["der hund rennt .", "ein kind liest !"]


def test_each_form_is_scored_with_its_own_settings() -> None:
    test_set = TestSet(References(FINISHED, "13a"), References(WORDS, "none", lowercase=True))
    scores, second = test_set.score(FIRST, SECOND)
    assert list(scores) == list(DEFAULT_METRICS)
    assert scores["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(FIRST, [FINISHED]).score)
    assert scores["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(FIRST, [FINISHED]).score)
    expected = sacrebleu.corpus_bleu(SECOND, [WORDS], tokenize="none", lowercase=True, force=True)
    assert second["bleu"].value == pytest.approx(expected.score)
    assert "case:lc" in second["bleu"].signature
    assert "tok:none" in second["bleu"].signature


def test_only_metrics_that_depend_on_tokens_have_a_second_score() -> None:
    test_set = TestSet(
        References(FINISHED, "13a"), References(WORDS, "none"), [name for name in METRICS if name != "spbleu"]
    )
    scores, second = test_set.score(FIRST, SECOND)
    assert list(scores) == ["bleu", "chrf", "chrf++", "ter"]
    assert list(second) == ["bleu", "chrf++", "ter"]
    assert scores["ter"].value == pytest.approx(100 * 1 / 6)
    assert second["ter"].value == pytest.approx(100 * 1 / 8)


def test_text_of_one_form_has_no_second_score() -> None:
    scores, second = TestSet(References(FINISHED, "13a")).score(FIRST, SECOND)
    assert second == {}
    assert scores["bleu"].value > 0
