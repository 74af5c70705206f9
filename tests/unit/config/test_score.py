"""Tests of settings of scoring: beams, iterations and the tokenizer of BLEU."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdmt.config import Decode, Pipeline

Load = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("score.beams=[2, 2]", "score: 'beams' holds a number twice"),
        ("score.iterations=[4, 4]", "score: 'iterations' holds a number twice"),
        ("score.metrics=[ter, ter]", "score: 'metrics' holds a name twice"),
        ("score.metrics=[comet]", "score.metrics.0"),
        ("score.metrics=[]", "score.metrics"),
        ("score.beams=[]", "score.beams: the list is too short"),
        ("score.tokenize=14a", "score.tokenize: should be 'auto', '13a', 'intl', 'none', 'zh'"),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


def test_a_tokenizer_without_its_packages_is_refused(
    problem: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdmt.config.score.missing_extra", lambda tokenizer: "ja" if tokenizer == "ja-mecab" else None)
    message = problem("score.tokenize=ja-mecab")
    assert message.startswith(
        "score: 'tokenize: ja-mecab' needs packages that are not installed: pip install 'kdmt[ja]'"
    )


def test_test_sets_are_decoded_with_the_settings_of_score(load: Load) -> None:
    score = load("score={beams: [7], lenpen: 0.6, max_len_a: 2.0, max_len_b: 3, max_tokens: 99, batch_size: 4}").score
    decode = score.decode(7)
    assert decode == Decode(beam=7, lenpen=0.6, max_len_a=2.0, max_len_b=3, max_tokens=99, batch_size=4)
