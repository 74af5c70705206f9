"""Triton kernels of losses on the output distribution: loss and gradient of a matrix of logits, in place.

A kernel reads each row of logits twice, for the softmax and for the gradient, and overwrites it with the gradient.
Between the two reads a row stays in the cache of a GPU, so that it is read from memory once and written once. The
logits keep the number type of the matrix product, usually bfloat16; all sums are computed in float32. Another module
decides whether the kernels can be used (`kdmt.losses.fused`); the losses in PyTorch are their reference and the path
of CPUs. This is the only module that imports `triton`, and `kdmt.losses.fused` imports it on first use.

The softmax is computed online (Milakov & Gimelshein 2018): with the largest logit m seen so far and the sum Z of
exp(logit - m), a block with a larger logit m' multiplies Z by exp(m - m').

Shapes: C tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # columns that a program reads at a time, at most


@triton.jit(do_not_specialize=["num_rows"])
def _cross_entropy_kernel(
    logits_ptr,
    stride,
    targets_ptr,
    weights_ptr,
    sums_ptr,
    num_rows,
    num_columns,
    target_share,
    each,
    HAS_GRADIENT: tl.constexpr,
    HAS_SMOOTHING: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute one row: loss = target_share * nll + each * sum_v (log Z - logit_v), and its gradient."""
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * stride
    target = tl.load(targets_ptr + row)
    target_logit = tl.load(logits_ptr + target).to(tl.float32)
    weight = 1.0
    if HAS_WEIGHTS:
        weight = tl.load(weights_ptr + row).to(tl.float32)

    peak = -float("inf")
    total = 0.0
    logits_sum = 0.0
    for start in tl.range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < num_columns
        logits = tl.load(logits_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(peak, tl.max(logits, 0))
        shift = tl.where(higher == -float("inf"), 0.0, higher)  # -inf minus -inf is not a number
        total = total * tl.exp(peak - shift) + tl.sum(tl.exp(logits - shift), 0)
        peak = higher
        if HAS_SMOOTHING:
            logits_sum += tl.sum(tl.where(inside, logits, 0.0), 0)

    log_total = tl.log(total)
    nll = log_total + (peak - target_logit)
    loss = target_share * nll
    if HAS_SMOOTHING:
        loss += each * (num_columns * (peak + log_total) - logits_sum)
    tl.store(sums_ptr + row, loss * weight)
    tl.store(sums_ptr + num_rows + row, nll * weight)

    if HAS_GRADIENT:
        scale = weight / total
        for start in tl.range(0, num_columns, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < num_columns
            logits = tl.load(logits_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
            gradient = tl.exp(logits - peak) * scale - each * weight
            gradient = tl.where(columns == target, gradient - target_share * weight, gradient)
            tl.store(logits_ptr + columns, gradient.to(logits_ptr.dtype.element_ty), mask=inside)


def cross_entropy_(
    logits_CV: Tensor,
    targets_C: Tensor,
    weights_C: Tensor | None,
    *,
    target_share: float,
    each: float,
    gradient: bool,
) -> Tensor:
    """Return the label-smoothed loss and the negative log-likelihood of each token; overwrite the logits.

    Args:
        logits_CV: logits, rows of adjacent numbers; the gradient of the loss overwrites them if `gradient` is true.
        targets_C: int64 ids.
        weights_C: weight of each token in both results and the gradient; None for 1.
        target_share: weight of -log p of the target, 1 - e - e / (V - 1).
        each: weight of -log p of every token, e / (V - 1).

    Returns:
        float32 [2, C].
    """
    num_rows, num_columns = logits_CV.shape
    sums_2C = torch.empty(2, num_rows, dtype=torch.float32, device=logits_CV.device)
    _launch(
        _cross_entropy_kernel,
        logits_CV,
        logits_CV.stride(0),
        targets_C.contiguous(),
        weights_C,
        sums_2C,
        num_rows,
        num_columns,
        target_share,
        each,
        HAS_GRADIENT=gradient,
        HAS_SMOOTHING=each != 0.0,
        HAS_WEIGHTS=weights_C is not None,
    )
    return sums_2C


def _launch(kernel: Any, logits_CV: Tensor, *args: Any, **constants: Any) -> None:
    """Run a program for each row of logits, on the device of the logits."""
    num_rows, num_columns = logits_CV.shape
    if not num_rows:
        return
    if logits_CV.stride(1) != 1:
        raise ValueError("the logits of a row are not adjacent in memory")
    block = min(BLOCK, triton.next_power_of_2(num_columns))
    with torch.cuda.device_of(logits_CV):
        kernel[(num_rows,)](logits_CV, *args, **constants, BLOCK=block, num_warps=max(1, block // 512))
