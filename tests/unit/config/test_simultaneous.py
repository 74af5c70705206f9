"""Tests of the settings of simultaneous translation."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import tiny_pipeline

from kdmt.config import Pipeline, Student, checked, resolved
from kdmt.config.simultaneous import values_of
from kdmt.errors import UserError

CAUSAL = {"unidirectional_encoder": True}


@pytest.mark.parametrize(
    ("given", "values"), [(3, (3,)), ([5, 1, 3], (1, 3, 5)), ({"min": 2, "max": 4}, (2, 3, 4)), ([7], (7,))]
)
def test_k_is_a_number_a_list_or_a_range(given: Any, values: tuple[int, ...]) -> None:
    student = Student.model_validate({"model": CAUSAL, "wait_k": given})
    assert student.wait_k is not None
    assert values_of(student.wait_k) == values


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wait_k": 0, "model": CAUSAL}, "wait_k: should be greater than or equal to 1 (it is 0)"),
        ({"wait_k": True, "model": CAUSAL}, "wait_k: should be a valid integer (it is True)"),
        ({"wait_k": [], "model": CAUSAL}, "wait_k: the list is too short"),
        ({"wait_k": [1, 1], "model": CAUSAL}, "wait_k: the list holds a number twice"),
        ({"wait_k": {"min": 3, "max": 2}, "model": CAUSAL}, "wait_k: 'min' (3) is more than 'max' (2)"),
        ({"wait_k": {"min": 3}, "model": CAUSAL}, "wait_k.max: missing"),
        ({"wait_k": 3}, "'wait_k' needs 'model.unidirectional_encoder: true'"),
        ({"wait_k": 3, "nat": {"family": "ctc"}}, "'wait_k' is for autoregressive students"),
        ({"model": CAUSAL, "nat": {"family": "ctc"}}, "'model.unidirectional_encoder' is for autoregressive students"),
        (
            {"wait_k": 3, "model": CAUSAL, "train": {"packing": True}},
            "'wait_k' cannot be combined with 'train.packing'",
        ),
        (
            {"wait_k": 3, "model": CAUSAL, "train": {"validate_beam": 5}},
            "'wait_k' needs 'train.validate_beam: 1'",
        ),
        (
            {"wait_k": 3, "model": CAUSAL, "word_kd": {}, "online": {"kind": "ema"}},
            "'wait_k' cannot be combined with 'online'",
        ),
        (
            {"wait_k": 3, "model": CAUSAL, "word_kd": {}, "on_policy": {}},
            "'wait_k' cannot be combined with 'on_policy'",
        ),
        (
            {"wait_k": 3, "model": CAUSAL, "train": {"guided_alignment": {}}},
            "'wait_k' cannot have 'train.guided_alignment'",
        ),
        (
            {"model": CAUSAL, "attention_kd": {}},
            "'model.unidirectional_encoder' cannot be combined with 'attention_kd'",
        ),
        (
            {
                "nat": {"family": "ctc", "streaming": {"chunk": 4}},
                "attention_kd": {"decoder_self": "none", "cross": "none"},
            },
            "'nat.streaming' cannot be combined with 'attention_kd'",
        ),
        (
            {"nat": {"family": "dag", "streaming": {"chunk": 4}}},
            "nat: 'streaming' is a setting of ctc, not of 'dag'",
        ),
        ({"nat": {"family": "ctc", "streaming": {"chunk": 0}}}, "nat.streaming.chunk: should be greater than or equal"),
        ({"nat": {"family": "ctc", "streaming": {}}}, "nat.streaming.chunk: missing"),
        (
            {"nat": {"family": "ctc", "streaming": {"chunk": 4}, "too_long": "upsample"}},
            "nat: 'streaming' cannot have 'too_long: upsample'",
        ),
    ],
)
def test_settings_that_cannot_be_combined_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        checked(Student, "", **settings)


def pipeline(student: dict[str, Any], score: dict[str, Any]) -> dict[str, Any]:
    document = tiny_pipeline.settings()
    document["students"]["raw"] |= student
    document["score"] |= score
    return document


def test_scores_need_a_system_that_can_translate_simultaneously() -> None:
    with pytest.raises(ValueError, match=r"'score\.simultaneous' has no effect"):
        Pipeline.model_validate(pipeline({}, {"simultaneous": {"wait_k": [1]}}))
    causal = {"model": tiny_pipeline.MODEL | CAUSAL}
    Pipeline.model_validate(pipeline(causal, {"simultaneous": {}}))
    streaming = {"nat": {"family": "ctc", "streaming": {"chunk": 4}}}
    Pipeline.model_validate(pipeline(streaming, {"simultaneous": {"wait_k": [1]}}))


def test_records_of_pipelines_without_these_settings_do_not_have_them() -> None:
    plain = json.dumps(resolved(Pipeline.model_validate(tiny_pipeline.settings())))
    for name in ("wait_k", "unidirectional_encoder", "streaming", "simultaneous"):
        assert f'"{name}"' not in plain
    waiting = {"model": tiny_pipeline.MODEL | CAUSAL, "wait_k": [1, 3]}
    used = resolved(Pipeline.model_validate(pipeline(waiting, {"simultaneous": {"wait_k": [2]}})))
    assert used["students"]["raw"]["wait_k"] == [1, 3]
    assert used["students"]["raw"]["model"]["unidirectional_encoder"] is True
    assert used["score"]["simultaneous"] == {"wait_k": [2]}
    assert Pipeline.model_validate(used).students["raw"].wait_k == [1, 3]
