"""Log-probabilities of a few tokens at each position, the best tokens, and the overlap of neighbouring distributions,
without the [M, V] matrix of logits.

Shapes: M positions, C positions of a chunk, K requested tokens of a position, V vocabulary, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdmt.losses.cross_entropy import Scratch, chunk_size, logits_of
from kdmt.losses.fused import add_product


class _Gathered(torch.autograd.Function):
    """log softmax(features @ weight.T) at `ids`; the backward pass computes the logits of a chunk again.

    Let G be the gradient with respect to the gathered values. The gradient with respect to the logits is G, added to
    the columns of `ids`, minus softmax * sum G.
    """

    @staticmethod
    def forward(
        ctx: Any, features_MD: Tensor, weight_VD: Tensor, ids_MK: Tensor, chunk: int, product_type: torch.dtype
    ) -> Tensor:
        with torch.autocast(features_MD.device.type, enabled=False):
            factor_VD, features = _factor(weight_VD, product_type), features_MD.to(weight_VD.dtype)
            log_z_M1 = features.new_empty(len(features), 1)
            found_MK = features.new_empty(ids_MK.shape)
            scratch = Scratch()
            for start in range(0, len(features), chunk):
                rows = slice(start, start + chunk)
                logits_CV = _chunk_logits(features[rows], factor_VD, len(weight_VD), scratch)
                torch.gather(logits_CV, 1, ids_MK[rows], out=found_MK[rows])
                peak_C1 = logits_CV.amax(1, keepdim=True)
                log_z_M1[rows] = logits_CV.sub_(peak_C1).exp_().sum(1, keepdim=True).log_().add_(peak_C1)
        ctx.save_for_backward(features_MD, weight_VD, ids_MK, log_z_M1)
        ctx.chunk, ctx.product_type = chunk, product_type
        return found_MK.sub_(log_z_M1)

    @staticmethod
    def backward(ctx: Any, grad_MK: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        features_MD, weight_VD, ids_MK, log_z_M1 = ctx.saved_tensors
        factor_VD, features = _factor(weight_VD, ctx.product_type), features_MD.to(weight_VD.dtype)
        grad_features_MD = torch.empty_like(features)
        grad_weight_VD = torch.zeros_like(factor_VD, dtype=weight_VD.dtype)
        scratch = Scratch()
        for start in range(0, len(features), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            probs_CV = _chunk_logits(features[rows], factor_VD, len(weight_VD), scratch).sub_(log_z_M1[rows]).exp_()
            grad_CV = probs_CV.mul_(-grad_MK[rows].sum(1, keepdim=True)).scatter_add_(1, ids_MK[rows], grad_MK[rows])
            grad_CV = grad_CV.to(ctx.product_type)
            grad_features_MD[rows] = grad_CV @ factor_VD
            add_product(grad_weight_VD, grad_CV.t(), features[rows].to(ctx.product_type))
        return grad_features_MD.to(features_MD.dtype), grad_weight_VD[: len(weight_VD)], None, None, None


# The rows of logits are padded to a multiple, since the matrix products of a GPU are slow if the rows are not aligned:
# with a blank, a vocabulary of 32,000 tokens has 32,001.
ROW_MULTIPLES = {"cpu": 1, "cuda": 8}


def _factor(weight_VD: Tensor, product_type: torch.dtype) -> Tensor:
    """Return the output projection in the type of the products, with rows of 0 up to a multiple: [padded V, D]."""
    multiple = ROW_MULTIPLES.get(weight_VD.device.type, 1)
    size, padded = len(weight_VD), -(-len(weight_VD) // multiple) * multiple
    if size == padded:
        return weight_VD.to(product_type)
    factor_VD = weight_VD.new_empty(padded, weight_VD.size(1), dtype=product_type)
    factor_VD[:size], factor_VD[size:] = weight_VD, 0
    return factor_VD


def _chunk_logits(features_CD: Tensor, factor_VD: Tensor, vocab_size: int, scratch: Scratch) -> Tensor:
    """Return the logits of a chunk, [C, padded V]; they are -inf in the padding."""
    logits_CV = scratch.matrix("logits", len(features_CD), len(factor_VD), features_CD)
    logits_of(features_CD, factor_VD, logits_CV)
    if vocab_size < len(factor_VD):
        logits_CV[:, vocab_size:] = -torch.inf
    return logits_CV


def gathered_log_probs(
    features_MD: Tensor,
    weight_VD: Tensor,
    ids_MK: Tensor,
    *,
    chunk: int | None = None,
    product_type: torch.dtype | None = None,
) -> Tensor:
    """Return the natural logarithms of the probabilities of some tokens at each position: [M, K].

    Args:
        features_MD: decoder features, M at least 1.
        weight_VD: output projection.
        ids_MK: int64 ids of the tokens; a row may contain a token more than once.
        chunk: number of positions whose logits exist at one time (default: the fastest number for the device).
        product_type: number type of the matrix products (default: the type of the parameters).
    """
    return _Gathered.apply(
        features_MD,
        weight_VD,
        ids_MK,
        chunk or chunk_size(features_MD.device),
        product_type or weight_VD.dtype,
    )


class _Overlapping(torch.autograd.Function):
    """The result of `_Gathered`, and r_i = sum_v p_i(v) p_{i+1}(v) over all tokens v but one.

    Let G be the gradient with respect to the gathered values and H the one with respect to r. The gradient with respect
    to the logits of position i is G, added to the columns of `ids`, plus p_i times

        H_i p_{i+1} + H_{i-1} p_{i-1} - H_i r_i - H_{i-1} r_{i-1} - sum G

    where the first two are 0 for the token that is left out. A chunk is extended by one position on each side.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features_MD: Tensor,
        weight_VD: Tensor,
        ids_MK: Tensor,
        without: int,
        chunk: int,
        product_type: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(features_MD.device.type, enabled=False):
            factor_VD, features = _factor(weight_VD, product_type), features_MD.to(weight_VD.dtype)
            log_z_M1 = features.new_empty(len(features), 1)
            found_MK, overlap_M = features.new_empty(ids_MK.shape), features.new_zeros(len(features))
            scratch = Scratch()
            for start in range(0, len(features), chunk):
                size = min(chunk, len(features) - start)
                rows, extended = slice(start, start + size), slice(start, start + size + 1)
                logits_CV = _chunk_logits(features[extended], factor_VD, len(weight_VD), scratch)
                torch.gather(logits_CV[:size], 1, ids_MK[rows], out=found_MK[rows])
                peak_C1 = logits_CV.amax(1, keepdim=True)
                z_C1 = logits_CV.sub_(peak_C1).exp_().sum(1, keepdim=True)
                log_z_M1[rows] = (z_C1.log() + peak_C1)[:size]
                logits_CV[:, without] = 0.0
                pairs = len(logits_CV) - 1
                products_CV = scratch.matrix("products", pairs, len(factor_VD), features)
                torch.mul(logits_CV[:-1], logits_CV[1:], out=products_CV)
                overlap_M[start : start + pairs] = products_CV.sum(1) / (z_C1[:-1] * z_C1[1:])[:, 0]
        ctx.save_for_backward(features_MD, weight_VD, ids_MK, log_z_M1, overlap_M)
        ctx.without, ctx.chunk, ctx.product_type = without, chunk, product_type
        return found_MK.sub_(log_z_M1), overlap_M

    @staticmethod
    def backward(ctx: Any, grad_MK: Tensor, grad_M: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        features_MD, weight_VD, ids_MK, log_z_M1, overlap_M = ctx.saved_tensors
        factor_VD, features = _factor(weight_VD, ctx.product_type), features_MD.to(weight_VD.dtype)
        grad_features_MD = torch.empty_like(features)
        grad_weight_VD = torch.zeros_like(factor_VD, dtype=weight_VD.dtype)
        scratch = Scratch()
        after_M = torch.cat([grad_M[:-1], grad_M.new_zeros(1)])  # factor of the next distribution
        before_M = torch.cat([after_M[-1:], after_M[:-1]])  # and of the previous one
        shares_M = after_M * overlap_M
        constant_M = shares_M + torch.cat([shares_M[-1:], shares_M[:-1]]) + grad_MK.sum(1)
        for start in range(0, len(features), ctx.chunk):
            rows = slice(start, min(start + ctx.chunk, len(features)))
            first, end = max(start - 1, 0), min(rows.stop + 1, len(features))
            inner = slice(start - first, rows.stop - first)
            probs_CV = _chunk_logits(features[first:end], factor_VD, len(weight_VD), scratch)
            probs_CV.sub_(log_z_M1[first:end]).exp_()
            mixed_CV = scratch.matrix("mixed", len(probs_CV), len(factor_VD), features)
            torch.mul(probs_CV[1:], after_M[first : end - 1, None], out=mixed_CV[:-1])
            mixed_CV[-1:] = 0.0
            mixed_CV[1:].addcmul_(probs_CV[:-1], before_M[first + 1 : end, None])
            mixed_CV[:, ctx.without] = 0.0
            grad_CV = mixed_CV[inner].sub_(constant_M[rows, None]).mul_(probs_CV[inner])
            grad_CV = grad_CV.scatter_add_(1, ids_MK[rows], grad_MK[rows]).to(ctx.product_type)
            grad_features_MD[rows] = grad_CV @ factor_VD
            add_product(grad_weight_VD, grad_CV.t(), features[rows].to(ctx.product_type))
        return grad_features_MD.to(features_MD.dtype), grad_weight_VD[: len(weight_VD)], None, None, None, None


def overlapping_log_probs(
    features_MD: Tensor,
    weight_VD: Tensor,
    ids_MK: Tensor,
    *,
    without: int,
    chunk: int | None = None,
    product_type: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the result of `gathered_log_probs`, and the overlap of each distribution with the next one: [M].

    The overlap is the sum of p_i(v) p_{i+1}(v) over all tokens v but one. That of the last position is 0.

    Args:
        without: id of the token that is left out.
        features_MD, weight_VD, ids_MK, chunk, product_type: see `gathered_log_probs`.
    """
    return _Overlapping.apply(
        features_MD,
        weight_VD,
        ids_MK,
        without,
        chunk or chunk_size(features_MD.device),
        product_type or weight_VD.dtype,
    )


@torch.no_grad()
def best_tokens(
    features_MD: Tensor,
    weight_VD: Tensor,
    *,
    without: int | None = None,
    chunk: int | None = None,
    product_type: torch.dtype | None = None,
) -> Tensor:
    """Return the most probable token at each position, int64 [M]. See `candidates` for the arguments."""
    return candidates(features_MD, weight_VD, 1, without=without, chunk=chunk, product_type=product_type)[:, 0]


@torch.no_grad()
def candidates(
    features_MD: Tensor,
    weight_VD: Tensor,
    k: int,
    *,
    without: int | None = None,
    chunk: int | None = None,
    product_type: torch.dtype | None = None,
) -> Tensor:
    """Return the k most probable tokens at each position, the best first: int64 [M, K].

    Args:
        without: id of a token that is excluded; None to exclude no token.
        chunk, product_type: see `gathered_log_probs`.
    """
    factor_VD, scratch = _factor(weight_VD, product_type or weight_VD.dtype), Scratch()
    parts = features_MD.to(weight_VD.dtype).split(chunk or chunk_size(features_MD.device))
    found = []
    for part_CD in parts:
        logits_CV = _chunk_logits(part_CD, factor_VD, len(weight_VD), scratch)
        if without is not None:
            logits_CV[:, without] = -torch.inf
        found.append(logits_CV.argmax(1, keepdim=True) if k == 1 else logits_CV.topk(k, dim=1).indices)
    return torch.cat(found)
