"""Tests that models that cannot be built or compared are refused with their YAML path before the first stage."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pytest
import tiny_directions
import tiny_pipeline
import torch
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from kdmt.config import NAT, Pipeline, Student
from kdmt.errors import UserError
from kdmt.families import FAMILIES
from kdmt.models.architecture import architecture
from kdmt.models.build import build_nonautoregressive
from kdmt.objectives.model_checks import (
    NAT_PARAMETERS,
    check_architectures,
    learns_from_cache,
    learns_from_running,
    untrained_fine_tuning,
)
from kdmt.stages.training_work import nat_config


def pipeline(**changes: Any) -> Pipeline:
    """Return the tiny pipeline with changes of its student `raw`."""
    document = tiny_pipeline.settings()
    document["students"]["raw"] |= changes
    return Pipeline.model_validate(document)


def test_compatible_models_are_accepted() -> None:
    check_architectures(pipeline())
    check_architectures(pipeline(hidden_kd={}, attention_kd={}, word_kd={}))
    check_architectures(pipeline(nat={"family": "ctc"}, hidden_kd={"decoder": "none"}))
    recurrent = tiny_pipeline.MODEL | {"decoder": "ssru", "layout": "marian"}
    check_architectures(pipeline(model=recurrent, hidden_kd={}, word_kd={}, attention_kd={"decoder_self": "none"}))


LIKELIHOOD_FIRST = {"nat": {"family": "ctc"}, "stages": [{}, {"nat": {"loss": "nmla"}}]}


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"nat": {"family": "ctc", "loss": "nmla"}}, "'students.raw': 'nat.loss: nmla'"),
        ({"nat": {"family": "dag", "loss": "fuzzy_alignment"}}, "'students.raw': 'nat.loss: fuzzy_alignment'"),
        ({"convex": {}}, "'students.raw': 'convex'"),
        ({"stages": [{"convex": {}}, {}]}, "'students.raw.stages.0': 'convex'"),
        # the decoder of a non-autoregressive student predicts from other inputs than the teacher's
        ({"nat": {"family": "cmlm"}, "convex": {}, "decoder_layers_from_teacher": [0]}, "'students.raw': 'convex'"),
        ({}, None),
        (LIKELIHOOD_FIRST, None),
        ({"nat": {"family": "ctc", "loss": "nmla"}, "train": tiny_pipeline.TRAIN | {"init_from": "x"}}, None),
        ({"convex": {}, "encoder_layers_from_teacher": [0], "decoder_layers_from_teacher": [0]}, None),
    ],
)
def test_fine_tuning_of_an_untrained_student_is_warned_of(changes: dict[str, Any], setting: str | None) -> None:
    warnings = untrained_fine_tuning(pipeline(**changes))
    assert len(warnings) == (setting is not None)
    if setting is not None:
        assert warnings[0].startswith(f"{setting} has almost no gradient for an untrained model")


RECURRENT = tiny_pipeline.MODEL | {"decoder": "ssru"}
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
        (
            {"nat": {"family": "ctc"}, "model": tiny_pipeline.MODEL | {"layout": "marian"}},
            r"students\.raw\.model\.layout: Marian has no non-autoregressive decoders \('nat\.family: ctc'\)",
        ),
        (
            {"nat": {"family": "cmlm"}, "model": RECURRENT},
            r"students\.raw\.model\.decoder: an SSRU .*'nat\.family: cmlm' computes all of them at once",
        ),
        (
            {"model": RECURRENT, "attention_kd": {}},
            r"raw\.attention_kd\.decoder_self: the student's decoder has SSRUs and no self-attention: set it to 'none'",
        ),
        (
            {"model": RECURRENT, "attention_kd": {"mapping": "learned", "cross": "none"}},
            r"raw\.attention_kd\.decoder_self: the student's decoder has SSRUs",
        ),
        (
            {"model": RECURRENT, "decoder_layers_from_teacher": [0]},
            r"raw\.decoder_layers_from_teacher: decoder is 'ssru' in the student and 'self_attention' in the teacher",
        ),
        (
            {
                "model": tiny_pipeline.MODEL | {"decoder_layers": 2, "tied_decoder_layers": True},
                "decoder_layers_from_teacher": [0, 1],
            },
            r"raw\.decoder_layers_from_teacher: .*(no layer 1|are tied)",
        ),
        ({"nat": {"family": "nat"}, "model": NARROW}, r"'nat\.family: nat' starts from the source's embeddings"),
    ],
)
def test_incompatible_models_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_architectures(pipeline(**changes))


SHORT = {
    "model": tiny_pipeline.MODEL | {"max_target_positions": 50},
    "train": tiny_pipeline.TRAIN | {"max_target_tokens": 50},
}
UNLIMITED = r"raw\.train\.max_target_tokens \(0: no limit below the model's 64\) is more than the teacher's .* \(50\)"


@pytest.mark.parametrize("source", ["teacher", "cache"])
def test_a_student_without_a_limit_is_limited_by_its_positions(source: str) -> None:
    changes = {"word_kd": {"source": source}, "train": tiny_pipeline.TRAIN | {"max_target_tokens": 0}}
    document = tiny_pipeline.settings()
    document["teacher"] |= SHORT
    document["students"]["raw"] |= changes
    with pytest.raises(UserError, match=UNLIMITED):
        check_architectures(Pipeline.model_validate(document))
    document["students"]["raw"]["model"] = SHORT["model"]
    check_architectures(Pipeline.model_validate(document))


def test_the_pipelines_teacher_of_a_part_of_a_cache_must_read_the_targets() -> None:
    document = tiny_directions.settings()
    document["teacher"] |= SHORT
    document["students"] = {"raw": document["students"]["raw"] | {"word_kd": {"source": "cache"}}}
    document["knowledge"] = {"teachers": "directions"}
    document["distill"] |= {"teachers": {"en-de": "a"}}
    with pytest.raises(UserError, match=r"raw\.train\.max_target_tokens \(60\) is more than the teacher's"):
        check_architectures(Pipeline.model_validate(document))
    document["distill"] |= {"teachers": {"en-de": "a", "en-fr": "b", "fr-en": None}}
    check_architectures(Pipeline.model_validate(document))


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


# -------------------------------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stages": [{}, {"max_source_tokens": 65}]},
            r"^students\.raw\.stages\.1\.max_source_tokens \(65\) is more than students\.raw\.model\.max_sour",
        ),
        (
            {"stages": [{}, {"hidden_kd": {"encoder": [[0, 3]]}}]},
            r"^students\.raw\.stages\.1\.hidden_kd\.encoder: .*the teacher has no layer 3",
        ),
        (
            {"stages": [{"embeddings_from_teacher": True}], "model": NARROW | {"encoder_embed_dim": 8}},
            r"^students\.raw\.stages\.0\.embeddings_from_teacher: encoder_embed_dim is 8 in the student and 16",
        ),
        ({"stages": [{}], "model": {"arch": "big"}}, r"^students\.raw\.model\.arch: 'big' is none of"),
        (
            {"nat": {"family": "dag"}, "stages": [{"nat": {"link_heads": 2}}, {}]},
            r"^students\.raw\.stages\.1\.nat\.link_heads: 4 has other parameters than 2 in the first stage",
        ),
        (
            {
                "nat": {"family": "ctc"},
                "model": tiny_pipeline.MODEL | {"decoder_learned_pos": True},
                "stages": [{}, {"nat": {"upsample": 2}}],
            },
            r"^students\.raw\.stages\.1\.nat\.upsample: 2 has other parameters than 3 in the first stage",
        ),
        ({"nat": {"family": "ctc"}, "stages": [{}, {"nat": None}]}, r"^students\.raw\.stages\.1\.nat: the first stage"),
    ],
)
def test_stages_with_another_model_or_without_a_fitting_one_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_architectures(pipeline(**changes))


def test_stages_of_one_model_are_accepted() -> None:
    glancing = {"nat": {"glancing": [[0, 0.5]], "upsample": 2, "too_long": "upsample"}}
    check_architectures(pipeline(nat={"family": "ctc"}, stages=[{}, glancing]))
    check_architectures(pipeline(stages=[{}, {"word_kd": {}, "hidden_kd": {}}]))


def others(field: FieldInfo) -> list[Any]:
    """Return values that a setting of `nat` does not have by default."""
    kinds = [field.annotation, *get_args(field.annotation)]
    if bool in kinds:
        return [not field.default]
    if float in kinds or int in kinds:
        return [value for value in (0.5, 1.0, 2, 5) if value != field.default]
    names = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    return [value for value in names if value != field.default] or [[[0, 0.5]]]


def shapes(settings: dict[str, Any], *, learned: bool) -> dict[str, torch.Size] | None:
    """Return the parameters of a model with these settings of `nat`; None if they are refused."""
    try:
        nat = nat_config(NAT.model_validate(settings))
    except ValidationError:
        return None
    changes = {"decoder_learned_pos": learned, "encoder_embed_dim": 16, "decoder_embed_dim": 16}
    model = build_nonautoregressive(architecture("transformer_tiny", changes), nat, src_vocab_size=9, tgt_vocab_size=9)
    return {name: parameter.shape for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_settings_on_which_parameters_depend_are_listed(family: str) -> None:
    """Build models with every value of every setting, alone and with settings that others need."""
    tried, found = set(), set()
    for learned in (False, True):
        for more in ({}, {"glancing": [[0, 0.5]]}, {"deep_supervision": 1.0}):
            base = shapes({"family": family, **more}, learned=learned)
            for name, field in NAT.model_fields.items():
                for value in others(field) if name != "family" and base is not None else ():
                    changed = shapes({"family": family, **more, name: value}, learned=learned)
                    tried |= {name} if changed is not None else set()
                    found |= {name} if changed not in (None, base) else set()
    assert len(tried) > 1
    assert found <= {*NAT_PARAMETERS, "upsample"}
    assert ("upsample" in found) == (FAMILIES[family].positions == "aligned")
