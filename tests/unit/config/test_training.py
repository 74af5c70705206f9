"""Tests of settings of training and of changes to architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from kdmt.config import Pipeline, Train, flatten_settings

Load = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("teacher.train.validate_bleu=false", "teacher.train: 'best_metric: bleu' needs 'validate_bleu: true'"),
        ("students.raw.train.init_optimizer=true", "students.raw.train: 'init_optimizer' is given without 'init_from'"),
        ("teacher.train.adam_betas=[0.9, 1.0]", "teacher.train: 'adam_betas' [0.9, 1.0] are not both"),
        (
            "teacher.train={average_checkpoints: 4, average: {n: 3}}",
            "teacher.train: 'average.n' (3) and 'average_checkpoints' (4) differ",
        ),
        ("teacher.train={average: {n: 0}}", "teacher.train.average.n: should be greater than or equal to 1 (it is 0)"),
        ("teacher.train.average.of=worst", "teacher.train.average.of: should be 'auto', 'best' or 'last'"),
        ("teacher.train.average=worst", "teacher.train.average.of: should be 'auto', 'best' or 'last'"),
        ("teacher.train.average=3", "teacher.train.average: "),
        (
            "teacher={model: {init: bert}, train: {init_from: a}}",
            "teacher: 'model.init' has no effect with 'train.init_from'",
        ),
        (
            "teacher.train.subword_regularization={}",
            "teacher.train.subword_regularization: give either 'alpha' (unigram models) or 'dropout' (BPE models)",
        ),
        (
            "teacher.train.subword_regularization={alpha: 0.1, dropout: 0.1}",
            "teacher.train.subword_regularization: give either 'alpha'",
        ),
        (
            "teacher.train.subword_regularization={alpha: 0.1, nbest_size: 1}",
            "teacher.train.subword_regularization: 'nbest_size' should be at least 2, or -1",
        ),
        (
            "teacher.train.subword_regularization={dropout: 0.1, nbest_size: 64}",
            "teacher.train.subword_regularization: 'nbest_size' has no effect with 'dropout'",
        ),
        (
            "teacher.train.subword_regularization={dropout: 1.0}",
            "teacher.train.subword_regularization.dropout: should be less than 1",
        ),
        (
            "teacher.train={subword_regularization: {alpha: 0.1}, packing: true}",
            "teacher.train: 'packing' cannot be combined with 'subword_regularization'",
        ),
        ("teacher.model.init=xavier", "teacher.model.init: should be 'fairseq' or 'bert'"),
        (
            "teacher.train.precision=bf8",
            "teacher.train.precision: should be 'auto', 'float32', 'bf16' or 'bf16_output'",
        ),
        (
            "teacher.train.lr_schedule=cosin",
            "teacher.train.lr_schedule: should be 'inverse_sqrt', 'linear', 'cosine', 'polynomial_decay' or 'wsd'",
        ),
        (
            "teacher.train.min_lr=1e-6",
            "teacher.train: 'min_lr' is a setting of linear, cosine, polynomial_decay, wsd, not of 'inverse_sqrt'",
        ),
        (
            "teacher.train={lr_schedule: linear, power: 2.0}",
            "teacher.train: 'power' is a setting of polynomial_decay, not of 'linear'",
        ),
        (
            "teacher.train={lr_schedule: cosine, decay_share: 0.5}",
            "teacher.train: 'decay_share' is a setting of wsd, not of 'cosine'",
        ),
        (
            "teacher.train={lr_schedule: cosine, lr: 1e-4, min_lr: 1e-3}",
            "teacher.train: 'min_lr' (0.001) is greater than 'lr' (0.0001)",
        ),
        (
            "teacher.train={lr_schedule: linear, max_updates: 4000}",
            "teacher.train: 'lr_schedule: linear' has no effect: 'warmup_updates' (4000) is not less than "
            "'max_updates' (4000)",
        ),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


def test_number_of_averaged_checkpoints_has_two_names() -> None:
    new = Train(average={"of": "last", "n": 3})  # type: ignore[arg-type]
    assert (new.average_checkpoints, new.average.n) == (3, None)
    assert Train(average_checkpoints=3).average.of == "auto"
    assert Train(**new.model_dump()) == new  # as in the configuration that is stored with a run
    recorded = flatten_settings(new, "result")
    assert recorded["average_checkpoints"].value == 3
    assert not [name for name in recorded if name.startswith("average.")]  # so that the new name retrains nothing
    assert Train(average="best").average.of == "best"  # type: ignore[arg-type]


def test_overrides_of_the_architecture_are_the_fields_that_are_set(load: Load) -> None:
    model = load("teacher.model={arch: transformer_tiny, encoder_layers: 3, dropout: 0.0}").teacher.model
    assert model.overrides() == {"encoder_layers": 3, "dropout": 0.0}


def test_selection_by_loss_does_not_translate_the_validation_set(load: Load) -> None:
    assert load("teacher.train={best_metric: loss, validate_bleu: false}").teacher.train.best_metric == "loss"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guided_alignment": {"unit": "tokens"}}, "'unit' has no effect without 'file'"),
        ({"quantization_aware": "int8", "compile": True}, "'quantization_aware' cannot be combined with 'compile'"),
        (
            {"quantization_aware": "int8", "init_from": "a", "ewc": {"prepared": "b", "weight": 1.0}},
            "'ewc' cannot be combined with 'quantization_aware'",
        ),
        ({"quantization_aware": "int8", "parallel": "fsdp"}, "'quantization_aware' needs whole weights"),
        ({"guided_alignment": {}, "packing": True}, "'packing' cannot be combined with 'guided_alignment'"),
        (
            {"guided_alignment": {}, "subword_regularization": {"alpha": 0.1}},
            "'subword_regularization' cannot be combined with 'guided_alignment'",
        ),
        ({"ema": 1.0}, "less than 1"),
    ],
)
def test_guided_alignment_and_moving_average_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Train.model_validate(changes)


# ------------------------------------------------------------------------------------------ right-to-left teachers


def test_all_stages_of_a_teacher_have_its_order(load: Callable[..., Pipeline]) -> None:
    pipeline = load("teacher.right_to_left=true", "teacher.stages=[{}, {lr: 0.001}]")
    assert [stage.right_to_left for _, stage in pipeline.teacher_trainings()] == [True, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["teacher.stages=[{}, {right_to_left: true}]"], "all stages predict targets in the same order"),
        (["teacher.train.guided_alignment={}"], "'right_to_left' cannot have 'train.guided_alignment'"),
        (["students.raw.word_kd={}"], "'students.raw.word_kd': the teacher predicts targets in reversed order"),
        (["students.raw.word_kd={source: cache}"], "'students.raw.word_kd': the teacher"),
        (["students.raw.hidden_kd={}"], "'students.raw.hidden_kd.decoder': the teacher"),
        (["students.raw.attention_kd={decoder_self: none}"], "'students.raw.attention_kd.cross': the teacher"),
    ],
)
def test_what_needs_the_normal_order_of_a_teacher_is_refused(
    problem: Callable[..., str], settings: list[str], message: str
) -> None:
    assert message in problem("teacher.right_to_left=true", *settings)


@pytest.mark.parametrize(
    "student",
    ["{word_kd: {teachers: [x]}}", "{word_kd: {}, online: {kind: ema}}", "{hidden_kd: {decoder: none}}", "{}"],
)
def test_students_that_do_not_read_its_distributions_are_allowed(load: Callable[..., Pipeline], student: str) -> None:
    assert load("teacher.right_to_left=true", f"students.raw={student}").teacher.right_to_left
