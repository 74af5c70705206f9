from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kdmt.errors import UserError
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer
from kdmt.models.initialise import copy_from_teacher
from kdmt.models.transformer import Transformer


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
