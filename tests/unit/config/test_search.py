"""Tests of settings of decoding: beams, and settings that need another setting."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdmt.config import Pipeline

Load = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("distill.decode={beam: 2, nbest: 3}", "distill.decode: 'nbest' (3) is larger than 'beam' (2)"),
        ("score.nat.ctc_lm=x.arpa", "score.nat: 'ctc_lm' needs prefix beam search: set 'ctc_beam' to more than 1"),
        ("score.nat.rescore=true", "score.nat: 'rescore' chooses among lengths: set 'length_beam' to more than 1"),
        ("score.nat.ctc_lm_weight=0.5", "score.nat: 'ctc_lm_weight' has no effect unless 'ctc_lm' is set"),
        ("score.nat.ctc_length_bonus=1.0", "score.nat: 'ctc_length_bonus' has no effect unless 'ctc_lm' is set"),
        ("score.nat.dag_lenpen=0.5", "score.nat: 'dag_lenpen' has no effect unless 'dag' is 'viterbi'"),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


@pytest.mark.parametrize(
    "override",
    [
        "score.nat={ctc_beam: 4, ctc_lm: x.arpa, ctc_lm_weight: 0.5, ctc_length_bonus: 1.0}",
        "score.nat={length_beam: 5, rescore: true}",
        "score.nat={cmlm_length_beam: 5, rescore: true}",
        "score.nat={dag: viterbi, dag_lenpen: 0.5}",
        "score.nat={dag: lookahead, dag_lenpen: 1.0}",  # a default that is written out
        "distill.decode={beam: 3, nbest: 3}",
    ],
)
def test_consistent_settings_are_accepted(load: Load, override: str) -> None:
    assert load(override)
