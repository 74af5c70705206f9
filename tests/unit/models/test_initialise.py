from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from kdmt.errors import UserError
from kdmt.families import FAMILIES, FamilyName
from kdmt.models.architecture import NATConfig, architecture
from kdmt.models.build import build_model, build_nonautoregressive, build_transformer, describe_model
from kdmt.models.initialise import copy_from_teacher
from kdmt.models.transformer import Transformer
from kdmt.types import PAD


def make_model(seed: int, **overrides: Any) -> Transformer:
    torch.manual_seed(seed)
    model = build_transformer(architecture("transformer_tiny", overrides), src_vocab_size=30, tgt_vocab_size=30)
    for parameter in model.parameters():  # norms and biases also differ between teacher and student
        nn.init.normal_(parameter)
    return model


TEACHER = make_model(1, encoder_layers=4, decoder_layers=3)


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


def unchanged(student: Transformer, *prefixes: str) -> bool:
    """Return whether all parameters except those with the given prefixes are unchanged."""
    fresh = dict(make_model(2, decoder_layers=1).named_parameters())
    rest = {name: value for name, value in student.named_parameters() if not name.startswith(prefixes)}
    return all(torch.equal(value, fresh[name]) for name, value in rest.items())


def test_only_the_chosen_layers_are_copied() -> None:
    student = make_model(2, decoder_layers=1)
    copy_from_teacher(student, TEACHER, encoder_layers=[3, 0], decoder_layers=[1], embeddings=False)
    assert equal(student.encoder_layers[0], TEACHER.encoder_layers[3])
    assert equal(student.encoder_layers[1], TEACHER.encoder_layers[0])
    assert equal(student.decoder_layers[0], TEACHER.decoder_layers[1])
    assert unchanged(student, "encoder_layers", "decoder_layers")


def test_final_norm_of_pre_norm_models_is_copied_with_the_layers() -> None:
    pre_norm = {"encoder_normalize_before": True, "decoder_normalize_before": True}
    teacher, student, fresh = (make_model(seed, **pre_norm) for seed in (1, 2, 2))
    norms = [(each.encoder_norm, each.decoder_norm) for each in (teacher, student, fresh)]
    (theirs, theirs_after), (own, own_after), (_, fresh_after) = norms
    assert own is not None
    assert own_after is not None
    copy_from_teacher(student, teacher, encoder_layers=[0, 1], decoder_layers=None, embeddings=False)
    assert equal(own, theirs)
    assert equal(own_after, fresh_after)
    copy_from_teacher(student, teacher, encoder_layers=None, decoder_layers=[0, 1], embeddings=False)
    assert equal(own_after, theirs_after)


def test_only_embeddings_are_copied() -> None:
    student = make_model(2, decoder_layers=1)
    copy_from_teacher(student, TEACHER, encoder_layers=None, decoder_layers=None, embeddings=True)
    for part in ("src_embed", "tgt_embed", "output_proj"):
        assert equal(getattr(student, part), getattr(TEACHER, part))
    assert unchanged(student, "src_embed", "tgt_embed", "output_proj")


def test_output_bias_that_the_teacher_does_not_have_stays() -> None:
    student, teacher = make_model(2, layout="marian"), make_model(1, layout="marian")
    bias = student.output_proj.bias.clone()
    copy_from_teacher(student, TEACHER, encoder_layers=None, decoder_layers=None, embeddings=True)
    assert torch.equal(student.output_proj.weight, TEACHER.output_proj.weight)
    assert torch.equal(student.output_proj.bias, bias)
    copy_from_teacher(student, teacher, encoder_layers=None, decoder_layers=None, embeddings=True)
    assert equal(student.output_proj, teacher.output_proj)


def test_without_settings_nothing_is_copied() -> None:
    student = make_model(2, decoder_layers=1)
    copy_from_teacher(student, TEACHER, encoder_layers=None, decoder_layers=None, embeddings=False)
    assert unchanged(student)


def test_student_and_teacher_do_not_share_storage() -> None:
    student = make_model(2, decoder_layers=1)
    copy_from_teacher(student, TEACHER, encoder_layers=[0, 1], decoder_layers=[0], embeddings=True)
    before = [parameter.clone() for parameter in TEACHER.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(map(torch.equal, TEACHER.parameters(), before))


@pytest.mark.parametrize(
    ("overrides", "chosen", "message"),
    [
        ({}, {"encoder_layers": [0]}, "encoder_layers_from_teacher: 1 layers are chosen, the student has 2"),
        ({}, {"decoder_layers": [0, 3]}, "decoder_layers_from_teacher: the teacher has no layer 3, only 0 to 2"),
        ({}, {"encoder_layers": [0, -1]}, "encoder_layers_from_teacher: the teacher has no layer -1"),
        ({"encoder_ffn_embed_dim": 32}, {"encoder_layers": [0, 1]}, r"ffn.fc1.weight is \[32, 64\] in the student and"),
        ({"layernorm_embedding": True}, {"embeddings": True}, r"norm.weight is \[64\] in the student and none"),
    ],
)
def test_incompatible_models_are_refused_by_name(overrides: dict, chosen: dict, message: str) -> None:
    arguments = {"encoder_layers": None, "decoder_layers": None, "embeddings": False, **chosen}
    with pytest.raises(UserError, match=message):
        copy_from_teacher(make_model(2, **overrides), TEACHER, **arguments)


# --------------------------------------------------------------------------------------------------- weights as in BERT


NORMS = ("norm.weight", "norm.bias")
OTHERS = ("transitions.", "log_temperature")  # not linear layers or embeddings of the encoder and the decoder


def with_bert_weights(family: FamilyName | None, **overrides: Any) -> Transformer:
    torch.manual_seed(3)
    values = {"encoder_learned_pos": True, "decoder_learned_pos": True, "layernorm_embedding": True, **overrides}
    config = architecture("transformer_tiny", {"init": "bert", **values})
    sizes = {"src_vocab_size": 300, "tgt_vocab_size": 300}
    if family is None:
        return build_transformer(config, **sizes)
    return build_nonautoregressive(config, NATConfig(family=family), **sizes)


def drawn_weights(model: Transformer) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        if not name.endswith((*NORMS, "bias")) and not name.startswith(OTHERS):
            yield name, parameter.detach()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("family", [None, *FAMILIES])
def test_bert_weights_are_normal_with_a_standard_deviation_of_two_hundredths(
    family: FamilyName | None, shared: bool
) -> None:
    model = with_bert_weights(family, share_all_embeddings=shared)
    weights = dict(drawn_weights(model))
    assert len(weights) > 20
    for name, weight in weights.items():
        size = weight.numel()
        assert abs(float(weight.mean())) < 0.02 * 5 / size**0.5, name
        assert float(weight.std()) == pytest.approx(0.02, rel=5 / (2 * size) ** 0.5 + 0.01), name  # zero rows: 1%
    values = torch.cat([weight.flatten() for weight in weights.values()])
    assert float((values.abs() < 0.02).double().mean()) == pytest.approx(0.6827, abs=0.01)  # normal, not uniform


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("family", [None, *FAMILIES])
def test_bert_biases_and_padding_are_zero_and_norms_are_the_identity(family: FamilyName | None, shared: bool) -> None:
    model = with_bert_weights(family, share_all_embeddings=shared)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif name.endswith("norm.weight"):
            assert bool((parameter == 1.0).all()), name
    for embed in (model.src_embed, model.tgt_embed):
        assert not embed.tokens.weight[PAD].any()
        assert not embed.positions.weight[PAD].any()
        assert bool(embed.tokens.weight[PAD + 1 :].all(1).all())
    assert (model.output_proj.weight is model.tgt_embed.tokens.weight) == shared


def test_transitions_of_a_crf_keep_their_distribution() -> None:
    model = with_bert_weights("nat_crf")
    assert float(model.transitions.first.weight.detach().std()) == pytest.approx(32**-0.5, rel=0.1)


def test_default_weights_are_those_of_fairseq_and_do_not_depend_on_the_setting() -> None:
    plain, named = (architecture("transformer_tiny", each) for each in ({}, {"init": "fairseq"}))
    assert plain == named
    torch.manual_seed(1)
    model = build_transformer(plain, src_vocab_size=30, tgt_vocab_size=30)
    assert float(model.src_embed.tokens.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.1)
    bound = (6 / (64 + 64)) ** 0.5  # Xavier-uniform
    projection = model.encoder_layers[0].self_attn.out_proj.weight
    assert 0.95 * bound < float(projection.detach().abs().max()) <= bound


@pytest.mark.parametrize("family", [None, "ctc"])
def test_initialisation_is_recorded_in_the_description(family: FamilyName | None) -> None:
    model = with_bert_weights(family)
    description = describe_model(model)
    assert description["config"]["init"] == "bert"
    assert build_model(description).config == model.config
    del description["config"]["init"]  # a description of an earlier version
    assert build_model(description).config == replace(model.config, init="fairseq")
