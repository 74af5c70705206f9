"""Losses on the output distribution without its matrix: projection, loss and gradient a chunk of tokens at a time.

Shapes: M target tokens, C tokens of a chunk, V vocabulary, D model width.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

# On a CPU a chunk's logits should stay in the cache; a GPU wants large products.
CHUNKS = {"cpu": 256, "cuda": 2048}


def chunk_size(device: torch.device) -> int:
    """Tokens whose logits exist at one time: what was fastest on such a device."""
    return CHUNKS.get(device.type, CHUNKS["cpu"])


class Scratch:
    """Matrices of a chunk, made once and used for every chunk of a batch: a fresh one would be paged in each time."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, like_CV: Tensor) -> Tensor:
        """A matrix like another; what was held under this name is overwritten."""
        return self.matrix(name, like_CV.size(0), like_CV.size(1), like_CV)

    def matrix(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """[rows, columns] of the type and on the device of `like`."""
        held = self._held.get(name)
        if held is None or len(held) < rows:
            held = self._held[name] = like.new_empty(rows, columns)
        return held[:rows]


def logits_of(features_CD: Tensor, factor_VD: Tensor, out: Tensor) -> Tensor:
    """features @ factor.T into `out`, [C, V], whose type may be another one than the factors'."""
    if factor_VD.dtype == out.dtype:
        return torch.mm(features_CD, factor_VD.t(), out=out)
    return out.copy_(features_CD.to(factor_VD.dtype) @ factor_VD.t())


class ChunkLoss(Protocol):
    """A weighted sum over tokens of a function of each token's logits."""

    @property
    def weights_M(self) -> Tensor | None:
        """The weights, None for 1."""
        ...

    def uniform(self, vocab_size: int) -> float:
        """A part of the gradient by the logits, before weights, that is the same everywhere; `chunk` leaves it out."""
        ...

    def chunk(self, rows: slice, logits_CV: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Of the tokens `rows`: the sums that the loss consists of or reports, [n], and the gradient of the first by
        the logits, [C, V], if asked for. The logits may be overwritten."""
        ...


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features_MD: Tensor, weight_VD: Tensor, loss: ChunkLoss, chunk: int, product_type: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        wanted = any(ctx.needs_input_grad)
        with torch.autocast(features_MD.device.type, enabled=False):
            factor_VD = weight_VD.to(product_type)
            features = features_MD.to(weight_VD.dtype)
            grad_features_MD = torch.empty_like(features) if wanted else None
            grad_weight_VD = torch.zeros_like(weight_VD) if wanted else None
            sums, scratch = [], Scratch()
            for start in range(0, max(len(features), 1), chunk):  # of no tokens the sums are 0
                rows = slice(start, start + chunk)
                factor_CD = features[rows].to(product_type)
                logits_CV = logits_of(
                    factor_CD, factor_VD, scratch.matrix("logits", len(factor_CD), len(weight_VD), features)
                )
                of_chunk, gradient_CV = loss.chunk(rows, logits_CV, gradient=wanted)
                sums.append(of_chunk)
                if gradient_CV is not None:
                    assert grad_features_MD is not None
                    assert grad_weight_VD is not None
                    gradient_CV = gradient_CV.to(product_type)
                    grad_features_MD[rows] = gradient_CV @ factor_VD
                    add_product(grad_weight_VD, gradient_CV.t(), factor_CD)
            if grad_features_MD is not None and (uniform := loss.uniform(len(weight_VD))):
                assert grad_weight_VD is not None
                add_to_rows(grad_features_MD, uniform * weight_VD.sum(0), loss.weights_M)
                grad_weight_VD.add_(weighted_sum(features, loss.weights_M), alpha=uniform)
            totals = torch.stack(sums).sum(0)
        if grad_features_MD is not None:
            ctx.save_for_backward(grad_features_MD.to(features_MD.dtype), grad_weight_VD)
        total, parts = totals[0].clone(), totals[1:].clone()
        ctx.mark_non_differentiable(parts)
        return total, parts

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        return *scaled_gradients(ctx.saved_tensors, grad_total), None, None, None


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, whose types may be another one."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def weighted_sum(values_Mx: Tensor, weights_M: Tensor | None) -> Tensor:
    """The sum over tokens: [...]."""
    return values_Mx.sum(0) if weights_M is None else weights_M @ values_Mx


def add_to_rows(rows_MD: Tensor, vector_D: Tensor, weights_M: Tensor | None) -> Tensor:
    """Add a vector to each token's row, times the token's weight, in place."""
    return rows_MD.add_(vector_D) if weights_M is None else rows_MD.addr_(weights_M, vector_D)


def scaled_gradients(gradients: tuple[Tensor, Tensor], factor: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients that were taken in the forward pass times that of the loss, in place where no one needs them again."""
    features, weight = gradients
    if torch._C._autograd._get_current_graph_task_keep_graph():  # there may be another backward pass
        return features * factor, weight * factor
    return features.mul_(factor), weight.mul_(factor)


def projected_loss(
    features_MD: Tensor,
    weight_VD: Tensor,
    loss: ChunkLoss,
    *,
    chunk: int | None = None,
    product_type: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """A loss of the logits `features @ weight.T`, which never exist for more tokens than a chunk.

    Args:
        features_MD: decoder features of the real target tokens.
        weight_VD: output projection.
        chunk: tokens whose logits exist at one time; by default what was fastest on such a device.
        product_type: of the matrix products, the parameters' by default.

    Returns:
        The first sum of the loss, which carries the gradient, and the others, [n - 1], which do not.
    """
    if not torch.is_grad_enabled():  # a Function cannot tell, and would take the gradient for every parameter
        features_MD, weight_VD = features_MD.detach(), weight_VD.detach()
    return _Projected.apply(
        features_MD,
        weight_VD,
        loss,
        chunk or chunk_size(features_MD.device),
        product_type or weight_VD.dtype,
    )
