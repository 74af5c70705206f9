"""Initialisation of a model: random weights as in BERT, and copies of weights of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from kdmt.errors import UserError
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.positions import LearnedPositions
from kdmt.models.transformer import Transformer
from kdmt.models.transitions import Transitions

_BERT_STD = 0.02


def draw_bert_weights(model: Transformer) -> None:
    """Draw the weights of a new model from normal(0, 0.02), in place, as in BERT (fairseq: `init_bert_params`).

    Weights of linear layers and embeddings, learned positions included, are drawn; biases and embeddings of padding are
    zero. Layer norms keep their weights of 1 and biases of 0. The transitions of `nat_crf` keep their distribution, as
    in fairseq, where they are not part of the decoder.
    """
    apart = {part for module in model.modules() if isinstance(module, Transitions) for part in module.modules()}
    for module in model.modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Embedding) and module not in apart):
            nn.init.normal_(module.weight, std=_BERT_STD)
        elif isinstance(module, LearnedPositions):
            nn.init.normal_(module.weight, std=_BERT_STD)
            nn.init.zeros_(module.weight[module.first - 1])
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(model, NATransformer) and model.nat.family == "ctc":
        nn.init.normal_(model.blank_1D, std=_BERT_STD)
    for embedder in (model.src_embed, model.tgt_embed):  # last, since the output projection may share the embeddings
        nn.init.zeros_(embedder.tokens.weight[model.pad])


def copy_from_teacher(
    student: Transformer,
    teacher: Transformer,
    *,
    encoder_layers: Sequence[int] | None,
    decoder_layers: Sequence[int] | None,
    embeddings: bool,
) -> None:
    """Copy selected layers and the embeddings of a teacher of the same width into a student, in place.

    If layers are copied, so is the norm that follows the last layer in pre-norm models. A bias of the output projection
    that the teacher does not have stays zero.

    Args:
        encoder_layers, decoder_layers: index of a layer of the teacher, from 0, for each layer of the student; None to
            copy no layers of this side.
        embeddings: whether to copy the token embeddings and the output projection too.

    Raises:
        UserError: if a layer does not exist, the number of layers is wrong, or widths differ.
    """
    if encoder_layers is not None:
        _copy_layers("encoder", student.encoder_layers, teacher.encoder_layers, encoder_layers)
        _copy_norm("encoder", student.encoder_norm, teacher.encoder_norm)
    if decoder_layers is not None:
        _copy_layers("decoder", student.decoder_layers, teacher.decoder_layers, decoder_layers)
        _copy_norm("decoder", student.decoder_norm, teacher.decoder_norm)
    if embeddings:
        _copy("embeddings_from_teacher", student.src_embed, teacher.src_embed)
        _copy("embeddings_from_teacher", student.tgt_embed, teacher.tgt_embed)
        _copy_output(student.output_proj, teacher.output_proj)


def _copy_output(student: nn.Linear, teacher: nn.Linear) -> None:
    """Copy the output projection, and its bias if both models have one."""
    if teacher.bias is not None or student.bias is None:
        _copy("embeddings_from_teacher", student, teacher)
    else:
        student.weight.data.copy_(teacher.weight.data)


def _copy_layers(side: str, student: nn.ModuleList, teacher: nn.ModuleList, chosen: Sequence[int]) -> None:
    setting = f"{side}_layers_from_teacher"
    if len(chosen) != len(student):
        raise UserError(f"{setting}: {len(chosen)} layers are chosen, the student has {len(student)}")
    for own, index in zip(student, chosen, strict=True):
        if not 0 <= index < len(teacher):
            raise UserError(f"{setting}: the teacher has no layer {index}, only 0 to {len(teacher) - 1}")
        _copy(setting, own, teacher[index])


def _copy_norm(side: str, student: nn.Module | None, teacher: nn.Module | None) -> None:
    """Copy the norm after the last layer if both models have one (pre-norm models)."""
    if student is not None and teacher is not None:
        _copy(f"{side}_layers_from_teacher", student, teacher)


def _copy(setting: str, student: nn.Module, teacher: nn.Module) -> None:
    theirs = dict(teacher.named_parameters())
    for name, parameter in student.named_parameters():
        if name not in theirs or theirs[name].shape != parameter.shape:
            found = list(theirs[name].shape) if name in theirs else "none"
            raise UserError(f"{setting}: {name} is {list(parameter.shape)} in the student and {found} in the teacher")
        parameter.data.copy_(theirs[name].data)
