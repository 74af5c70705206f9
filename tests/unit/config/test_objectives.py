"""Loss terms of distillation: what they need, and what would have no effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdmt.config import HiddenKD, WordKD


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "students.raw.word_kd={source: cache, divergence: squared_error}",
            "students.raw.word_kd: 'divergence: squared",
        ),
        (
            "students.raw.word_kd={source: cache, marginal_momentum: 0.9}",
            "students.raw.word_kd: 'marginal_momentum' is",
        ),
        ("students.raw.word_kd={source: cache, teachers: [a]}", "students.raw.word_kd: 'teachers' run during training"),
        ("students.raw.word_kd={alpha_schedule: [[9, 0.5], [3, 1.0]]}", "students.raw.word_kd: 'alpha_schedule': its "),
        ("students.raw.word_kd={alpha_schedule: [[3, 0.5], [3, 1.0]]}", "students.raw.word_kd: 'alpha_schedule': its "),
        ("students.raw.word_kd={alpha: 0.0, top1_ranking: 2}", "students.raw.word_kd: 'top1_ranking' is part of the"),
        (
            "students.raw.hidden_kd={encoder: none, decoder: none}",
            "students.raw.hidden_kd: 'encoder' and 'decoder' are",
        ),
        ("students.raw.hidden_kd.encoder=last:0", "students.raw.hidden_kd.encoder: not in the form"),
        ("students.raw.hidden_kd.encoder=[[0]]", "students.raw.hidden_kd.encoder.0.1: missing"),
        ("students.raw.hidden_kd.encoder=[]", "students.raw.hidden_kd.encoder: the list is too short"),
        (
            "students.raw.attention_kd={encoder_self: none, decoder_self: none, cross: none}",
            "students.raw.attention_kd: 'encoder_self', 'decoder_self' and 'cross' are all 'none'",
        ),
        ("students.raw.online={kind: joint}", "students.raw.online: 'kind: joint' needs the teacher's 'model'"),
        (
            "students.raw.online={kind: ema, model: {}}",
            "students.raw.online: 'kind: joint' needs the teacher's 'model'",
        ),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


@pytest.mark.parametrize(
    ("settings", "taught"),
    [
        ({}, True),
        ({"alpha": 0.0}, False),
        ({"alpha": 0.0, "alpha_schedule": [[0, 0.0], [9, 0.1]]}, True),
        ({"alpha": 1.0, "alpha_schedule": [[0, 0.0]]}, False),
    ],
)
def test_whether_the_divergence_ever_has_a_weight(settings: dict[str, Any], taught: bool) -> None:
    assert WordKD(**settings).ever_taught is taught


@pytest.mark.parametrize("layers", ["none", "uniform", "last:2", [[0, 1], [1, 3]]])
def test_layers_by_rule_or_by_pairs(layers: Any) -> None:
    expected = layers if isinstance(layers, str) else [tuple(pair) for pair in layers]
    assert HiddenKD(encoder=layers, decoder="uniform").encoder == expected
