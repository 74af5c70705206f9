"""Fake quantisation to int8, for quantisation-aware training (Jacob et al. 2018; Bogoychev et al. 2020).

A number is rounded to the nearest multiple of a scale, halves to the even multiple:

    q(x) = round(x / s) * s,    s = max|x| / 127

so that a matrix product of rounded numbers is the one that an int8 engine computes. The gradient is passed straight
through the rounding (Bengio et al. 2013): the derivative of q is taken to be 1, and that of the scale 0.

- Inputs of matrix products have one scale for each token, so that a translation does not depend on its batch.
- Weight matrices and embeddings have one scale for each row, as in CTranslate2 (`int8`), or one for each matrix, as in
  Marian and Firefox's engine (`int8_matrix`).

Biases, layer norms, positions and the products inside of attention are not rounded, as in these engines.

Shapes: O rows of a weight (outputs, or tokens), I columns, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdmt.choices import Int8Scales
from kdmt.models.attention import CrossAttention, SelfAttention, at_least_float32
from kdmt.models.transformer import Transformer

_LARGEST = 127.0  # of the whole numbers; -128 is not used


def round_to_int8(values: Tensor, *, by_row: bool = True) -> Tensor:
    """Return values rounded to multiples of their scale, in the type of the values.

    Args:
        values: floats [..., I].
        by_row: whether each row of the last dimension has its own scale; False for one scale of all values.
    """
    wide = at_least_float32(values)
    largest = wide.abs().amax(dim=-1, keepdim=True) if by_row else wide.abs().amax()
    per_unit = _LARGEST / torch.where(largest == 0, 1.0, largest)
    return (torch.round(wide * per_unit) / per_unit).to(values.dtype)


class _StraightThrough(torch.autograd.Function):
    """`round_to_int8` by row, with the gradient of the identity."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return round_to_int8(values)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


def round_inputs(values: Tensor) -> Tensor:
    """Return inputs of a matrix product rounded by token, with the gradient passed straight through: [..., D]."""
    rounded: Tensor = _StraightThrough.apply(values)
    return rounded


def _before_product(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (round_inputs(inputs[0]), *inputs[1:])


def make_quantization_aware(model: Transformer) -> None:
    """Let a model round the inputs of all its matrix products with weights."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(_before_product)
    model.round_features = round_inputs  # losses apply the output projection themselves


def int8_weights(model: nn.Module, scales: Int8Scales) -> dict[str, Tensor]:
    """Return rounded copies of the weight matrices and embeddings of a model, by the name of the parameter.

    With these values instead of its own, a model has the straight-through gradients of its own weights.
    """
    parts = _num_matrices(model)
    rounded = {}
    for name, parameter in model.named_parameters():
        if parameter in parts:
            weight_OI = parameter.detach()
            if scales == "int8":
                rounded[name] = round_to_int8(weight_OI)
            else:
                matrices = weight_OI.chunk(parts[parameter], dim=0)
                rounded[name] = torch.cat([round_to_int8(matrix, by_row=False) for matrix in matrices])
    return rounded


def _num_matrices(model: nn.Module) -> dict[Tensor, int]:
    """Return the weights that are rounded, with the number of matrices of other engines that each is stacked from."""
    parts: dict[Tensor, int] = {
        module.weight: 1 for module in model.modules() if isinstance(module, (nn.Linear, nn.Embedding))
    }
    for module in model.modules():
        if isinstance(module, SelfAttention):
            parts[module.qkv_proj.weight] = 3
        elif isinstance(module, CrossAttention):
            parts[module.kv_proj.weight] = 2
    return parts
