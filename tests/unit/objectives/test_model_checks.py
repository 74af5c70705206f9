"""Tests that models that cannot be built or compared are refused with their YAML path before the first stage."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_pipeline

from kdmt.config import Pipeline, Student
from kdmt.errors import UserError
from kdmt.objectives.model_checks import check_architectures, learns_from_cache, learns_from_running


def pipeline(**changes: Any) -> Pipeline:
    """Return the tiny pipeline with changes of its student `raw`."""
    document = tiny_pipeline.settings()
    document["students"]["raw"] |= changes
    return Pipeline.model_validate(document)


def test_compatible_models_are_accepted() -> None:
    check_architectures(pipeline())
    check_architectures(pipeline(hidden_kd={}, attention_kd={}, word_kd={}))
    check_architectures(pipeline(nat={"family": "ctc"}, hidden_kd={"decoder": "none"}))


NARROW = tiny_pipeline.MODEL | {"decoder_embed_dim": 8, "share_all_embeddings": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {**tiny_pipeline.MODEL, "encoder_embed_dim": 15}},
            r"raw\.model\.encoder_embed_dim \(15\)",
        ),
        ({"encoder_layers_from_teacher": [0, 0]}, r"students\.raw\.encoder_layers_from_teacher: 2 layers are chosen"),
        ({"encoder_layers_from_teacher": [1]}, r"the teacher has no layer 1, only 0 to 0"),
        ({"hidden_kd": {"encoder": [[0, 3]]}}, r"students\.raw\.hidden_kd\.encoder: .*the teacher has no layer 3"),
        (
            {"attention_kd": {"heads": [5, 0]}},
            r"attention_kd\.heads: the teacher's encoder has no head 5",
        ),
        ({"nat": {"family": "cmlm", "deep_supervision": 0.5}}, r"deep_supervision: a decoder of one layer"),
        ({"nat": {"family": "nat"}, "model": NARROW}, r"'nat\.family: nat' starts from the source's embeddings"),
    ],
)
def test_incompatible_models_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_architectures(pipeline(**changes))


@pytest.mark.parametrize("nat", [{"family": "cmlm"}, {"family": "nat", "decoder_input": "unk"}])
def test_decoder_that_does_not_copy_embeddings_can_have_another_width(nat: dict[str, Any]) -> None:
    check_architectures(pipeline(nat=nat, model=NARROW))


@pytest.mark.parametrize(
    ("settings", "running", "cached"),
    [
        ({}, False, False),
        ({"word_kd": {}}, True, False),
        ({"word_kd": {"source": "cache"}}, False, True),
        ({"word_kd": {"source": "cache"}, "hidden_kd": {}}, True, True),
        ({"word_kd": {}, "online": {"kind": "ema"}}, False, False),
    ],
)
def test_learns_from_running_and_learns_from_cache(settings: dict[str, Any], running: bool, cached: bool) -> None:
    student = Student.model_validate(settings)
    assert (learns_from_running(student), learns_from_cache(student)) == (running, cached)
