"""Differences of scores with intervals, against sacreBLEU on the drawn test sets themselves."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kdmt.score.metrics import METRICS
from kdmt.score.report_page.gaps import Resampled, find_gaps
from kdmt.score.test_sets import References

WORDS = ["the", "a", "dog", "cat", "house", "runs", "sees", "big", "small", "old"]


def sentences(seed: int, count: int = 30) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) for _ in range(count)]


def changed(lines: list[str], seed: int, share: float) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) if rng.random() < share else word for word in line.split()) for line in lines]


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
@pytest.mark.parametrize("further", [False, True])
def test_the_scores_are_those_of_the_drawn_sentences(metric: str, further: bool) -> None:
    lines = sentences(1)
    references = References(lines, "13a", further=[changed(lines, 5, 0.3)] if further else ())
    hypotheses = changed(lines, 2, 0.2)
    resampled = Resampled(references, metric, samples=5)
    found = resampled.scores(hypotheses)
    assert found[0] == pytest.approx(references.score(hypotheses, [metric])[metric].value)
    for score, counts in zip(found[1:], resampled._counts, strict=True):
        assert counts.sum() == len(lines)
        drawn = np.repeat(np.arange(len(lines)), counts).tolist()
        expected = references.part(drawn).score([hypotheses[index] for index in drawn], [metric])[metric].value
        assert score == pytest.approx(expected)


def test_a_gap_is_that_of_the_means_over_seeds_and_its_interval_covers_95_percent() -> None:
    lines = sentences(3)
    texts = {"teacher": [changed(lines, 1, 0.1)], "small": [changed(lines, seed, 0.4) for seed in (2, 3)]}
    resampled = Resampled(References(lines, "13a"), "chrf", samples=200)
    (gap,) = find_gaps([("small", "teacher")], texts, resampled)
    of_small = np.mean([resampled.scores(text) for text in texts["small"]], axis=0)
    differences = of_small - resampled.scores(texts["teacher"][0])
    scores = [METRICS["chrf"].score(text, lines).value for text in (*texts["small"], *texts["teacher"])]
    assert gap.difference == pytest.approx((scores[0] + scores[1]) / 2 - scores[2])
    inside = np.count_nonzero((differences[1:] >= gap.low) & (differences[1:] <= gap.high))
    assert inside == 190
    assert gap.low < gap.difference < gap.high < 0


def test_a_system_has_no_gap_to_itself_and_draws_repeat() -> None:
    lines = sentences(4)
    texts = {"a": [changed(lines, 1, 0.3)], "b": [changed(lines, 1, 0.3)], "c": [changed(lines, 2, 0.3)]}
    pairs = [("a", "b"), ("a", "c")]
    first, second = (find_gaps(pairs, texts, Resampled(References(lines, "13a"), "bleu", samples=70)) for _ in range(2))
    assert (first[0].difference, first[0].low, first[0].high) == (0.0, 0.0, 0.0)
    assert first == second
    assert first[1].low < first[1].high
