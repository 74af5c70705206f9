"""The agreement of people with differences of scores, against the published figures."""

from __future__ import annotations

from typing import get_args

import pytest

from kdmt.choices import AgreementMetric
from kdmt.score.human_agreement import agreement


@pytest.mark.parametrize(
    ("metric", "difference", "expected"),
    [  # differences for an agreement of 80% and 64%, as mt-thresholds prints them; those of COMET in hundredths
        ("bleu", 2.34, 80),
        ("bleu", 1.0, 63.989),
        ("chrf", 1.63, 80),
        ("comet22", 0.0056, 80),
        ("xcomet-xl", 0.0108, 80),
        ("metricx-23-large", 0.067, 80),
    ],
)
def test_differences_have_the_published_agreement(metric: AgreementMetric, difference: float, expected: float) -> None:
    assert agreement(difference, metric) == pytest.approx(expected, abs=0.15)
    assert agreement(-difference, metric) == agreement(difference, metric)


def test_every_metric_has_an_agreement_that_rises_with_the_difference() -> None:
    for metric in get_args(AgreementMetric):
        found = [agreement(difference, metric) for difference in (0.0, 0.001, 0.01)]
        assert 40 < found[0] < found[1] < found[2] < 100
