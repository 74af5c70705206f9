"""Tests of settings of students: loss terms, and the combinations allowed by the family and the teachers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdmt.config import HiddenKD, Pipeline, WordKD

Load = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "students.raw.word_kd={source: cache, divergence: squared_error}",
            "students.raw.word_kd: 'divergence: squared",
        ),
        (
            "students.raw.word_kd={source: cache, marginal_momentum: 0.9}",
            "students.raw.word_kd: 'marginal_momentum' has",
        ),
        ("students.raw.word_kd={skew: 0.2}", "students.raw.word_kd: 'skew' has no effect unless 'divergence' is"),
        ("students.raw.word_kd={source: cache, teachers: [a]}", "students.raw.word_kd: 'teachers' run during training"),
        ("students.raw.word_kd={alpha_schedule: [[9, 0.5], [3, 1.0]]}", "students.raw.word_kd: 'alpha_schedule': the "),
        ("students.raw.word_kd={alpha_schedule: [[3, 0.5], [3, 1.0]]}", "students.raw.word_kd: 'alpha_schedule': the "),
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
        (
            "students.raw={model: {init: bert}, train: {init_from: a}}",
            "students.raw: 'model.init' has no effect with 'train.init_from'",
        ),
        ("students.raw.seeds=[1, 2, 1]", "students.raw: 'seeds' holds a number twice"),
        (
            "students.raw={nat: {family: ctc}, train: {packing: true}}",
            "students.raw: 'train.packing' cannot be combined with 'nat'",
        ),
        (
            "students.raw={attention_kd: {}, train: {packing: true}}",
            "students.raw: 'train.packing' cannot be combined with 'attention_kd'",
        ),
        (
            "students.raw={convex: {}, train: {packing: true}}",
            "students.raw: 'train.packing' cannot be combined with 'convex'",
        ),
        ("students.raw={convex: {}, word_kd: {}}", "students.raw: 'convex' cannot be combined with 'word_kd'"),
        (
            "students.raw={convex: {}, nat: {family: nat_crf}}",
            "students.raw: 'nat.family: nat_crf' cannot have 'convex': its loss is not one likelihood",
        ),
        (
            "students.raw={convex: {}, nat: {family: ctc, loss: nmla}}",
            "students.raw: 'convex' replaces the likelihood: it cannot have 'nat.loss: nmla'",
        ),
        ("students.raw.convex={power: 0.0}", "students.raw.convex.power: "),
        (
            "students.raw={model: {attention_dropout: 0.1}, train: {packing: true}}",
            "students.raw: 'train.packing' needs 'model.attention_dropout: 0'",
        ),
        (
            "students.raw={data: nbest, train: {packing: true}}",
            "students.raw: 'train.packing' cannot have 'data: nbest'",
        ),
        ("students.raw={nat: {family: ctc}, word_kd: {}}", "students.raw: 'nat.family: ctc' cannot have 'word_kd'"),
        ("students.raw={nat: {family: nat}, on_policy: {}}", "students.raw: 'nat.family: nat' cannot have 'on_policy'"),
        ("students.raw={nat: {family: dag}, data: nbest}", "students.raw: 'nat.family: dag' cannot have 'data: nbest'"),
        (
            "students.raw={nat: {family: ctc}, hidden_kd: {}}",
            "students.raw: 'nat.family: ctc' cannot have 'hidden_kd.decoder': its positions are not the target's",
        ),
        (
            "students.raw={nat: {family: cmlm, layout: fairseq}, hidden_kd: {}}",
            "students.raw: 'nat.layout: fairseq' cannot have 'hidden_kd'",
        ),
        (
            "students.raw={nat: {family: cmlm, layout: fairseq, deep_supervision: 1.0}}",
            "students.raw: 'nat.layout: fairseq' cannot have 'deep_supervision'",
        ),
        ("students.raw={on_policy: {}}", "students.raw: 'on_policy' needs 'word_kd'"),
        ("students.raw={on_policy: {}, word_kd: {source: cache}}", "students.raw: 'on_policy' needs 'word_kd'"),
        ("students.raw={on_policy: {}, word_kd: {alpha: 0.0}}", "students.raw: 'on_policy' has no effect"),
        (
            "students.raw={on_policy: {}, word_kd: {}, online: {kind: mutual}}",
            "students.raw: 'on_policy' samples from one student",
        ),
        (
            "students.raw={on_policy: {}, word_kd: {}, train: {parallel: fsdp}}",
            "students.raw: 'on_policy' needs the whole model on each rank",
        ),
        ("students.raw={online: {kind: ema}}", "students.raw: 'online' needs 'word_kd'"),
        ("students.raw={online: {kind: ema}, word_kd: {alpha: 0.0}}", "students.raw: 'online' has no effect"),
        ("students.raw={online: {kind: ema}, word_kd: {teachers: [a]}}", "students.raw: 'online' has its own"),
        (
            "students.raw={online: {kind: ema}, word_kd: {}, teacher_precision: bf16}",
            "students.raw: 'teacher_precision'",
        ),
        (
            "students.raw={online: {kind: mutual}, word_kd: {select: global}}",
            "students.raw: 'word_kd.select: global' keeps one queue",
        ),
        (
            "students.raw={online: {kind: mutual}, word_kd: {marginal_momentum: 0.5}}",
            "students.raw: 'word_kd.marginal_momentum' keeps one average",
        ),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


@pytest.mark.parametrize(
    "student",
    [
        "{nat: {family: ctc}, hidden_kd: {decoder: none}, attention_kd: {decoder_self: none, cross: none}}",
        "{nat: {family: cmlm}, word_kd: {}, hidden_kd: {}, data: nbest}",
        "{on_policy: {}, word_kd: {}, online: {kind: ema}}",
        "{online: {kind: ema}, word_kd: {alpha: 0.0}, hidden_kd: {}}",
    ],
)
def test_valid_combinations_of_losses_are_accepted(load: Load, student: str) -> None:
    assert load(f"students.raw={student}", "distill.decode.nbest=2")


@pytest.mark.parametrize(
    ("settings", "taught"),
    [
        ({}, True),
        ({"alpha": 0.0}, False),
        ({"alpha": 0.0, "alpha_schedule": [[0, 0.0], [9, 0.1]]}, True),
        ({"alpha": 1.0, "alpha_schedule": [[0, 0.0]]}, False),
    ],
)
def test_whether_the_divergence_ever_has_a_positive_weight(settings: dict[str, Any], taught: bool) -> None:
    assert WordKD(**settings).ever_taught is taught


@pytest.mark.parametrize("layers", ["none", "uniform", "last:2", [[0, 1], [1, 3]]])
def test_layers_are_given_by_a_rule_or_by_pairs(layers: Any) -> None:
    expected = layers if isinstance(layers, str) else [tuple(pair) for pair in layers]
    assert HiddenKD(encoder=layers, decoder="uniform").encoder == expected
