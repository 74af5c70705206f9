"""Tests of settings of training and of changes to architectures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
        ("teacher.train={average: {n: 0}}", "teacher.train.average.n: should be at least 1"),
        ("teacher.train.average.of=worst", "teacher.train.average.of: should be 'auto', 'best' or 'last'"),
        ("teacher.train.average=worst", "teacher.train.average.of: should be 'auto', 'best' or 'last'"),
        ("teacher.train.average=3", "teacher.train.average: "),
        (
            "teacher.train.precision=bf8",
            "teacher.train.precision: should be 'auto', 'float32', 'bf16' or 'bf16_output'",
        ),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


def test_number_of_averaged_checkpoints_has_two_names() -> None:
    new = Train(average={"of": "last", "n": 3})  # type: ignore[arg-type]
    assert new.average_checkpoints == 3
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
