"""Triton kernels of the losses: losses on the output distribution, and the recursions of CTC.

A kernel of the first kind computes loss and gradient of a matrix of logits, in place. It reads each row of logits
twice, for the softmax and for the gradient, and overwrites it with the gradient. Between the two reads a row stays in
the cache of a GPU, so that it is read from memory once and written once. The logits keep the number type of the matrix
product, usually bfloat16; all sums are computed in float32. Another module decides whether the kernels can be used
(`kdmt.losses.fused`); the losses in PyTorch are their reference and the path of CPUs. This is the only module that
imports `triton`, and `kdmt.losses.fused` imports it on first use.

The softmax is computed online (Milakov & Gimelshein 2018): with the largest logit m seen so far and the sum Z of
exp(logit - m), a block with a larger logit m' multiplies Z by exp(m - m').

A kernel of CTC has a program for each sentence, which passes over all positions of the output, so that a recursion is
one launch. Blanks and tokens are two blocks: blank t and token t are the states 2 t and 2 t + 1 of `kdmt.losses.ctc`.
Only the score of the token before, t - 1, is another thread's; it is exchanged through memory, with a barrier of the
program's threads for each position.

Shapes: C tokens of a chunk, V vocabulary; for CTC: B batch, L output positions, T target tokens, K = 1 + T symbols (the
blank, then the tokens), S = 2 T + 1 states.
"""

from __future__ import annotations

from dataclasses import dataclass
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
        float(target_share),
        float(each),
        HAS_GRADIENT=gradient,
        HAS_SMOOTHING=each != 0.0,
        HAS_WEIGHTS=weights_C is not None,
    )
    return sums_2C


@triton.jit(do_not_specialize=["num_rows"])
def _whole_distribution_kernel(
    logits_ptr,
    stride,
    teacher_ptr,
    teacher_stride,
    targets_ptr,
    taught_ptr,
    weights_ptr,
    sums_ptr,
    num_rows,
    num_columns,
    inverse_temperature,
    alpha,
    scale,
    target_share,
    each,
    HAS_REFERENCES: tl.constexpr,
    HAS_TEMPERATURE: tl.constexpr,
    MINUS_ENTROPY: tl.constexpr,
    HAS_TAUGHT: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    HAS_SMOOTHING: tl.constexpr,
    HAS_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute one row of word-level distillation from the logits of student (z) and teacher (t).

    With the largest logits a of the teacher and b of the student, e_v = exp((t_v - a) / T) and their sum E,

        KL(p_T || q_T) = 1/E sum_v e_v ((t_v - a) - (z_v - b)) / T + log sum_v exp((z_v - b) / T) - log E

    The first sum follows a and b as they grow. Without (t_v - a) and log E this is the cross entropy of p_T and q_T.
    """
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * stride
    teacher_ptr += row.to(tl.int64) * teacher_stride
    target = tl.load(targets_ptr + row)
    target_logit = tl.load(logits_ptr + target).to(tl.float32)
    weight = 1.0
    taught = 1.0
    hard = 0.0
    if HAS_WEIGHTS:
        weight = tl.load(weights_ptr + row).to(tl.float32)
    if HAS_TAUGHT:
        taught = tl.load(taught_ptr + row).to(tl.float32)
    if HAS_REFERENCES:
        hard = 1.0 - alpha * taught

    peak = -float("inf")
    teacher_peak = -float("inf")
    shift = 0.0  # the largest logit, 0 while all logits are -inf
    teacher_shift = 0.0
    total = 0.0
    soft_total = 0.0
    teacher_total = 0.0
    moment = 0.0
    logits_sum = 0.0
    for start in tl.range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < num_columns
        logits = tl.load(logits_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
        teacher = tl.load(teacher_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(peak, tl.max(logits, 0))
        new_shift = tl.where(higher == -float("inf"), 0.0, higher)
        teacher_higher = tl.maximum(teacher_peak, tl.max(teacher, 0))
        new_teacher_shift = tl.where(teacher_higher == -float("inf"), 0.0, teacher_higher)

        scores = logits - new_shift
        total = total * tl.exp(peak - new_shift) + tl.sum(tl.exp(scores), 0)
        if HAS_TEMPERATURE:
            ratio = tl.exp((peak - new_shift) * inverse_temperature)
            soft_total = soft_total * ratio + tl.sum(tl.exp(scores * inverse_temperature), 0)
        teacher_scores = teacher - new_teacher_shift
        exps = tl.exp(teacher_scores * inverse_temperature)
        growth = shift - new_shift
        difference = -scores
        if MINUS_ENTROPY:
            growth -= teacher_shift - new_teacher_shift
            difference += teacher_scores
        ratio = tl.exp((teacher_peak - new_teacher_shift) * inverse_temperature)
        moment = (moment - teacher_total * growth) * ratio + tl.sum(tl.where(exps > 0.0, exps * difference, 0.0), 0)
        teacher_total = teacher_total * ratio + tl.sum(exps, 0)
        peak = higher
        shift = new_shift
        teacher_peak = teacher_higher
        teacher_shift = new_teacher_shift
        if HAS_SMOOTHING:
            logits_sum += tl.sum(tl.where(inside, logits, 0.0), 0)

    log_total = tl.log(total)
    if not HAS_TEMPERATURE:
        soft_total = total
    value = moment / teacher_total * inverse_temperature + tl.log(soft_total)
    if MINUS_ENTROPY:
        value -= tl.log(teacher_total)
    value *= scale * taught
    nll = log_total + (peak - target_logit)
    loss = alpha * value
    if HAS_REFERENCES:
        smooth = target_share * nll
        if HAS_SMOOTHING:
            smooth += each * (num_columns * (peak + log_total) - logits_sum)
        loss += hard * smooth
    tl.store(sums_ptr + row, loss * weight)
    tl.store(sums_ptr + num_rows + row, nll * weight)
    tl.store(sums_ptr + 2 * num_rows + row, value * weight)
    tl.store(sums_ptr + 3 * num_rows + row, taught * weight)

    if HAS_GRADIENT:
        hard *= weight
        soft = alpha * taught * scale * inverse_temperature * weight
        inverse_total = 1.0 / total
        inverse_soft_total = 1.0 / soft_total
        inverse_teacher_total = 1.0 / teacher_total
        for start in tl.range(0, num_columns, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < num_columns
            logits = tl.load(logits_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
            teacher = tl.load(teacher_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
            probs = tl.exp(logits - shift) * inverse_total
            soft_probs = probs
            if HAS_TEMPERATURE:
                soft_probs = tl.exp((logits - shift) * inverse_temperature) * inverse_soft_total
            teacher_probs = tl.exp((teacher - teacher_shift) * inverse_temperature) * inverse_teacher_total
            gradient = hard * (probs - each) + soft * (soft_probs - teacher_probs)
            gradient = tl.where(columns == target, gradient - hard * target_share, gradient)
            tl.store(logits_ptr + columns, gradient.to(logits_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def _best_tokens_kernel(
    logits_ptr,
    stride,
    ids_ptr,
    ids_stride,
    log_probs_ptr,
    log_probs_stride,
    targets_ptr,
    taught_ptr,
    weights_ptr,
    sums_ptr,
    num_rows,
    num_columns,
    inverse_temperature,
    alpha,
    scale,
    target_share,
    each,
    log_zero,
    NUM_BEST: tl.constexpr,
    BEST: tl.constexpr,
    HAS_REFERENCES: tl.constexpr,
    HAS_TEMPERATURE: tl.constexpr,
    MINUS_ENTROPY: tl.constexpr,
    HAS_TAUGHT: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    HAS_SMOOTHING: tl.constexpr,
    HAS_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute one row of word-level distillation from the teacher's K best tokens and the mass of all others.

    The logits of the K tokens are set to -inf at first, so that the passes over the row see the other tokens only:
    their mass is a sum of its own, even if it is so small that 1 minus the mass of the K tokens is a rounding error.
    """
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * stride
    target = tl.load(targets_ptr + row)
    target_logit = tl.load(logits_ptr + target).to(tl.float32)
    places = tl.arange(0, BEST)
    is_best = places < NUM_BEST
    ids = tl.load(ids_ptr + row.to(tl.int64) * ids_stride + places, mask=is_best, other=0)
    best = tl.load(logits_ptr + ids, mask=is_best, other=-float("inf")).to(tl.float32)
    log_probs_ptr += row.to(tl.int64) * log_probs_stride
    log_probs = tl.load(log_probs_ptr + places, mask=is_best, other=log_zero).to(tl.float32)
    log_probs = tl.maximum(log_probs, log_zero)
    rest_log_prob = tl.maximum(tl.load(log_probs_ptr + NUM_BEST).to(tl.float32), log_zero)
    weight = 1.0
    taught = 1.0
    hard = 0.0
    if HAS_WEIGHTS:
        weight = tl.load(weights_ptr + row).to(tl.float32)
    if HAS_TAUGHT:
        taught = tl.load(taught_ptr + row).to(tl.float32)
    if HAS_REFERENCES:
        hard = 1.0 - alpha * taught
    tl.debug_barrier()  # all threads have read these logits
    tl.store(logits_ptr + ids, tl.full([BEST], -float("inf"), logits_ptr.dtype.element_ty), mask=is_best)
    tl.debug_barrier()

    peak = -float("inf")
    shift = 0.0
    rest_total = 0.0
    soft_rest_total = 0.0
    logits_sum = 0.0
    for start in tl.range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < num_columns
        logits = tl.load(logits_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(peak, tl.max(logits, 0))
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        rest_total = rest_total * tl.exp(peak - shift) + tl.sum(tl.exp(logits - shift), 0)
        if HAS_TEMPERATURE:
            exps = tl.exp((logits - shift) * inverse_temperature)
            soft_rest_total = soft_rest_total * tl.exp((peak - shift) * inverse_temperature) + tl.sum(exps, 0)
        peak = higher
        if HAS_SMOOTHING:
            logits_sum += tl.sum(tl.where(logits == -float("inf"), 0.0, logits), 0)
    if not HAS_TEMPERATURE:
        soft_rest_total = rest_total

    top = tl.maximum(peak, tl.max(best, 0))
    best_exps = tl.exp(best - top)
    rest_ratio = tl.exp(peak - top)
    total = rest_total * rest_ratio + tl.sum(best_exps, 0)
    log_total = tl.log(total)
    soft_best_exps = tl.exp((best - top) * inverse_temperature)
    soft_rest_ratio = tl.exp((peak - top) * inverse_temperature)
    soft_total = soft_rest_total * soft_rest_ratio + tl.sum(soft_best_exps, 0)
    soft_log_total = tl.log(soft_total)
    own_log_probs = tl.maximum((best - top) * inverse_temperature - soft_log_total, log_zero)
    own_rest = tl.log(soft_rest_total) + (shift - top) * inverse_temperature - soft_log_total
    own_rest = tl.maximum(tl.where(soft_rest_total > 0.0, own_rest, log_zero), log_zero)

    probs = tl.where(is_best, tl.exp(log_probs), 0.0)
    rest_prob = tl.exp(rest_log_prob)
    difference = -own_log_probs
    rest_difference = -own_rest
    if MINUS_ENTROPY:
        difference += log_probs
        rest_difference += rest_log_prob
    value = tl.sum(tl.where(is_best, probs * difference, 0.0), 0) + rest_prob * rest_difference
    value *= scale * taught
    nll = log_total + (top - target_logit)
    loss = alpha * value
    if HAS_REFERENCES:
        smooth = target_share * nll
        if HAS_SMOOTHING:
            logits_sum += tl.sum(tl.where(is_best, best, 0.0), 0)
            smooth += each * (num_columns * (top + log_total) - logits_sum)
        loss += hard * smooth
    tl.store(sums_ptr + row, loss * weight)
    tl.store(sums_ptr + num_rows + row, nll * weight)
    tl.store(sums_ptr + 2 * num_rows + row, value * weight)
    tl.store(sums_ptr + 3 * num_rows + row, taught * weight)

    if HAS_GRADIENT:
        hard *= weight
        soft = alpha * taught * scale * inverse_temperature * weight
        some_rest = tl.where(soft_rest_total > 0.0, soft_rest_total, 1.0)
        slope = hard * rest_ratio / total
        soft_slope = soft * (soft_rest_ratio / soft_total - rest_prob / some_rest)
        for start in tl.range(0, num_columns, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < num_columns
            logits = tl.load(logits_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
            exps = tl.exp(logits - shift)
            soft_exps = exps
            if HAS_TEMPERATURE:
                soft_exps = tl.exp((logits - shift) * inverse_temperature)
            gradient = slope * exps + soft_slope * soft_exps - hard * each
            gradient = tl.where(columns == target, gradient - hard * target_share, gradient)
            tl.store(logits_ptr + columns, gradient.to(logits_ptr.dtype.element_ty), mask=inside)
        tl.debug_barrier()  # the loop has written the columns of the best tokens too
        gradient = hard * (best_exps / total - each) + soft * (tl.exp(own_log_probs) - probs)
        gradient = tl.where(ids == target, gradient - hard * target_share, gradient)
        tl.store(logits_ptr + ids, gradient.to(logits_ptr.dtype.element_ty), mask=is_best)


@dataclass(frozen=True)
class WordKD:
    """Settings of word-level distillation that both kernels share.

    The loss of a token is (1 - alpha * taught) * cross entropy + alpha * taught * scale * D(p_T, q_T), or without
    references only the second part.

    Attributes:
        temperature: T.
        alpha: share of the divergence.
        scale: factor of the divergence, T^2 or 1.
        has_references: whether the cross entropy with the targets is part of the loss.
        minus_entropy: whether D is KL(p || q); otherwise it is the cross entropy of p and q.
        target_share: weight of -log q of the target, 1 - e - e / (V - 1).
        each: weight of -log q of every token, e / (V - 1).
    """

    temperature: float
    alpha: float
    scale: float
    has_references: bool
    minus_entropy: bool
    target_share: float
    each: float


def whole_distribution_(
    logits_CV: Tensor,
    teacher_CV: Tensor,
    targets_C: Tensor,
    taught_C: Tensor | None,
    weights_C: Tensor | None,
    settings: WordKD,
    *,
    gradient: bool,
) -> Tensor:
    """Return sums of word-level distillation from a teacher's logits for each token; overwrite the student's logits.

    Args:
        logits_CV: logits of the student, rows of adjacent numbers; the gradient of the loss overwrites them if
            `gradient` is true.
        teacher_CV: logits of the teacher, rows of adjacent numbers.
        targets_C: int64 ids.
        taught_C: float, 1 for tokens for which the divergence is computed, else 0; None for 1.
        weights_C: weight of each token in all results and the gradient; None for 1.

    Returns:
        The loss, the negative log-likelihood of the target, scale * divergence, and `taught_C`: float32 [4, C].
    """
    sums_4C = torch.empty(4, len(logits_CV), dtype=torch.float32, device=logits_CV.device)
    _launch(
        _whole_distribution_kernel,
        logits_CV,
        logits_CV.stride(0),
        teacher_CV,
        teacher_CV.stride(0),
        targets_C.contiguous(),
        taught_C,
        weights_C,
        sums_4C,
        *logits_CV.shape,
        *_numbers(settings),
        **_constants(settings, taught_C, weights_C, gradient),
    )
    return sums_4C


def best_tokens_(
    logits_CV: Tensor,
    ids_CK: Tensor,
    log_probs_CG: Tensor,
    targets_C: Tensor,
    taught_C: Tensor | None,
    weights_C: Tensor | None,
    settings: WordKD,
    *,
    log_zero: float,
    gradient: bool,
) -> Tensor:
    """Return sums of word-level distillation from a teacher's best tokens for each token; overwrite the logits.

    The logits are overwritten even if no gradient is wanted. They must be finite: unlike the other kernels, this one
    gives a finite loss with label smoothing for a logit of -inf.

    Args:
        ids_CK: int64 ids of the teacher's best tokens, all different within a row.
        log_probs_CG: logarithms of their probabilities at the temperature; the last column is the logarithm of the
            probability of all other tokens together.
        log_zero: lower bound of logarithms of probabilities.

    The other arguments and the result are those of `whole_distribution_`.
    """
    num_best = ids_CK.size(1)
    sums_4C = torch.empty(4, len(logits_CV), dtype=torch.float32, device=logits_CV.device)
    ids_CK, log_probs_CG = ids_CK.contiguous(), log_probs_CG.contiguous()
    _launch(
        _best_tokens_kernel,
        logits_CV,
        logits_CV.stride(0),
        ids_CK,
        num_best,
        log_probs_CG,
        num_best + 1,
        targets_C.contiguous(),
        taught_C,
        weights_C,
        sums_4C,
        *logits_CV.shape,
        *_numbers(settings),
        log_zero,
        NUM_BEST=num_best,
        BEST=triton.next_power_of_2(num_best),
        **_constants(settings, taught_C, weights_C, gradient),
    )
    return sums_4C


def _numbers(settings: WordKD) -> tuple[float, ...]:
    return 1.0 / settings.temperature, *map(
        float, (settings.alpha, settings.scale, settings.target_share, settings.each)
    )


def _constants(settings: WordKD, taught_C: Tensor | None, weights_C: Tensor | None, gradient: bool) -> dict[str, bool]:
    return {
        "HAS_REFERENCES": settings.has_references,
        "HAS_TEMPERATURE": settings.temperature != 1.0,
        "MINUS_ENTROPY": settings.minus_entropy,
        "HAS_TAUGHT": taught_C is not None,
        "HAS_WEIGHTS": weights_C is not None,
        "HAS_SMOOTHING": settings.each != 0.0,
        "HAS_GRADIENT": gradient,
    }


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


@triton.jit
def _log_sum(first, second, third):
    """Return log(exp(first) + exp(second) + exp(third)); -inf if all are -inf."""
    peak = tl.maximum(tl.maximum(first, second), third)
    shift = tl.where(peak == -float("inf"), 0.0, peak)  # -inf minus -inf is not a number
    total = tl.exp(first - shift) + tl.exp(second - shift) + tl.exp(third - shift)
    return peak + tl.log(tl.where(total == 0.0, 1.0, total))


@triton.jit(do_not_specialize=["length", "num_tokens"])
def _ctc_variables_kernel(log_probs_ptr, tokens_ptr, variables_ptr, length, num_tokens, BLOCK: tl.constexpr):
    """Compute the forward variables of one sentence."""
    row = tl.program_id(0).to(tl.int64)
    log_probs_ptr += row * length * (num_tokens + 1)
    tokens_ptr += row * num_tokens
    variables_ptr += row * length * (2 * num_tokens + 1)
    places = tl.arange(0, BLOCK)
    is_token = places < num_tokens
    is_blank = places <= num_tokens
    has_before = is_token & (places > 0)
    token = tl.load(tokens_ptr + places, mask=is_token, other=0)
    skips = has_before & (token != tl.load(tokens_ptr + places - 1, mask=has_before, other=0))

    # a path starts with the first blank or the first token
    blanks = tl.where(places == 0, tl.load(log_probs_ptr), -float("inf"))
    tokens = tl.where(places == 0, tl.load(log_probs_ptr + 1), -float("inf"))
    tl.store(variables_ptr + 2 * places, blanks, mask=is_blank)
    tl.store(variables_ptr + 2 * places + 1, tokens, mask=is_token)
    for _ in tl.range(1, length):
        tl.debug_barrier()  # all threads have written their states of this position
        before = tl.load(variables_ptr + 2 * places - 1, mask=is_blank & (places > 0), other=-float("inf"))
        log_probs_ptr += num_tokens + 1
        variables_ptr += 2 * num_tokens + 1
        skipped = tl.where(skips, before, -float("inf"))
        emitted = tl.load(log_probs_ptr + 1 + places, mask=is_token, other=-float("inf"))
        tokens = _log_sum(tokens, blanks, skipped) + emitted
        blanks = _log_sum(blanks, before, -float("inf")) + tl.load(log_probs_ptr)
        tl.store(variables_ptr + 2 * places, blanks, mask=is_blank)
        tl.store(variables_ptr + 2 * places + 1, tokens, mask=is_token)


@triton.jit(do_not_specialize=["length", "num_tokens"])
def _ctc_shares_kernel(
    log_probs_ptr,
    tokens_ptr,
    lengths_ptr,
    tgt_lengths_ptr,
    variables_ptr,
    scores_ptr,
    totals_ptr,
    shares_ptr,
    length,
    num_tokens,
    BLOCK: tl.constexpr,
):
    """Compute the shares of the paths through each state of one sentence, backwards from its forward variables.

    Each place has a blank and the token before it, so that only the score of the token after is another thread's.
    """
    row = tl.program_id(0).to(tl.int64)
    num_states = 2 * num_tokens + 1
    log_probs_ptr += row * length * (num_tokens + 1)
    tokens_ptr += row * num_tokens
    variables_ptr += row * length * num_states
    scores_ptr += row * 2 * (num_tokens + 1)
    shares_ptr += row * length * num_states
    own_length = tl.load(lengths_ptr + row)
    own_num_tokens = tl.load(tgt_lengths_ptr + row)
    places = tl.arange(0, BLOCK)
    is_blank = places <= num_tokens
    is_token = is_blank & (places > 0)
    is_own_blank = places <= own_num_tokens
    is_own_token = is_own_blank & (places > 0)
    has_after = places < own_num_tokens
    token = tl.load(tokens_ptr + places - 1, mask=is_own_token, other=0)
    after_token = tl.load(tokens_ptr + places, mask=has_after, other=0)
    skips = is_own_token & has_after & (token != after_token)

    last_ptr = variables_ptr + (own_length - 1) * num_states + 2 * own_num_tokens
    total = _log_sum(tl.load(last_ptr - 1), tl.load(last_ptr), -float("inf"))
    is_possible = total > -float("inf")
    shift = tl.where(is_possible, total, 0.0)  # -inf minus -inf is not a number
    tl.store(totals_ptr + row, total)

    for position in tl.range(own_length, length):
        tl.store(shares_ptr + position * num_states + 2 * places, tl.zeros([BLOCK], tl.float32), mask=is_blank)
        tl.store(shares_ptr + position * num_states + 2 * places - 1, tl.zeros([BLOCK], tl.float32), mask=is_token)
    # a path ends with the last token or the blank after it
    blanks = tl.where(places == own_num_tokens, 0.0, -float("inf"))
    tokens = blanks
    for back in tl.range(0, own_length):
        place = own_length - 1 - back
        states = place * num_states + 2 * places
        blank_paths = tl.load(variables_ptr + states, mask=is_own_blank, other=-float("inf")) + blanks
        token_paths = tl.load(variables_ptr + states - 1, mask=is_own_token, other=-float("inf")) + tokens
        tl.store(shares_ptr + states, tl.where(is_possible, tl.exp(blank_paths - shift), 0.0), mask=is_blank)
        tl.store(shares_ptr + states - 1, tl.where(is_possible, tl.exp(token_paths - shift), 0.0), mask=is_token)

        symbols_ptr = log_probs_ptr + place * (num_tokens + 1)
        blanks += tl.load(symbols_ptr)
        tokens += tl.load(symbols_ptr + places, mask=is_own_token, other=-float("inf"))
        # two rows in turn: a row is overwritten after the barrier that follows the last read of it
        held_ptr = scores_ptr + (back % 2) * (num_tokens + 1)
        tl.store(held_ptr + places, tokens, mask=is_blank)
        tl.debug_barrier()  # all threads have written their scores
        after = tl.load(held_ptr + places + 1, mask=has_after, other=-float("inf"))
        tokens = _log_sum(tokens, blanks, tl.where(skips, after, -float("inf")))
        blanks = _log_sum(blanks, after, -float("inf"))


@triton.jit(do_not_specialize=["length", "num_tokens"])
def _ctc_alignment_kernel(
    log_probs_ptr,
    tokens_ptr,
    lengths_ptr,
    tgt_lengths_ptr,
    scores_ptr,
    steps_ptr,
    states_ptr,
    length,
    num_tokens,
    BLOCK: tl.constexpr,
):
    """Compute the best path of one sentence: its scores and steps forwards, then its states backwards."""
    row = tl.program_id(0).to(tl.int64)
    num_states = 2 * num_tokens + 1
    log_probs_ptr += row * length * (num_tokens + 1)
    tokens_ptr += row * num_tokens
    scores_ptr += row * 2 * num_tokens
    steps_ptr += row * length * num_states
    states_ptr += row * length
    own_length = tl.load(lengths_ptr + row)
    own_num_tokens = tl.load(tgt_lengths_ptr + row)
    places = tl.arange(0, BLOCK)
    is_token = places < num_tokens
    is_blank = places <= num_tokens
    has_before = is_token & (places > 0)
    token = tl.load(tokens_ptr + places, mask=is_token, other=0)
    skips = has_before & (token != tl.load(tokens_ptr + places - 1, mask=has_before, other=0))

    blanks = tl.where(places == 0, tl.load(log_probs_ptr), -float("inf"))
    tokens = tl.where(places == 0, tl.load(log_probs_ptr + 1), -float("inf"))
    for position in tl.range(1, own_length):
        held_ptr = scores_ptr + (position % 2) * num_tokens  # two rows in turn, as above
        tl.store(held_ptr + places, tokens, mask=is_token)
        tl.debug_barrier()  # all threads have written their scores of the position before
        before = tl.load(held_ptr + places - 1, mask=is_blank & (places > 0), other=-float("inf"))
        skipped = tl.where(skips, before, -float("inf"))
        best = tl.maximum(blanks, skipped)
        token_steps = tl.where(tokens < best, tl.where(blanks < skipped, 2, 1), 0)
        blank_steps = tl.where(blanks < before, 1, 0)
        log_probs_ptr += num_tokens + 1
        emitted = tl.load(log_probs_ptr + 1 + places, mask=is_token, other=-float("inf"))
        tokens = tl.maximum(tokens, best) + emitted
        blanks = tl.maximum(blanks, before) + tl.load(log_probs_ptr)
        position_ptr = steps_ptr + position * num_states
        tl.store(position_ptr + 2 * places, blank_steps.to(tl.int8), mask=is_blank)
        tl.store(position_ptr + 2 * places + 1, token_steps.to(tl.int8), mask=is_token)
    tl.debug_barrier()  # all threads have written their steps

    last_token = tl.max(tl.where(places == own_num_tokens - 1, tokens, -float("inf")), 0)
    last_blank = tl.max(tl.where(places == own_num_tokens, blanks, -float("inf")), 0)
    is_possible = tl.maximum(last_token, last_blank) > -float("inf")
    state = 2 * own_num_tokens - 1 + tl.where(last_blank > last_token, 1, 0)
    for back in tl.range(0, length):
        place = length - 1 - back
        is_inside = is_possible & (place < own_length)
        tl.store(states_ptr + place, tl.where(is_inside, state, 0))
        state -= tl.load(steps_ptr + place * num_states + state, mask=is_inside & (place > 0), other=0)


def ctc_variables(log_probs_BLK: Tensor, tokens_BT: Tensor) -> Tensor:
    """Return the log-probabilities of all paths to each state of CTC at each position, float32 [B, L, S].

    Args:
        log_probs_BLK: float32; at least one position and one token.
        tokens_BT: int64.
    """
    batch, length, num_symbols = log_probs_BLK.shape
    variables_BLS = log_probs_BLK.new_empty(batch, length, 2 * num_symbols - 1)
    _launch_ctc(_ctc_variables_kernel, log_probs_BLK, tokens_BT, variables_BLS)
    return variables_BLS


def ctc_shares(
    log_probs_BLK: Tensor, tokens_BT: Tensor, lengths_B: Tensor, tgt_lengths_B: Tensor, variables_BLS: Tensor
) -> tuple[Tensor, Tensor]:
    """Return log P(target), [B], and the share of the paths through each state, [B, L, S]; both are float32.

    The shares of a target that has no alignment, and those beyond an output or a target, are 0.

    Args:
        log_probs_BLK: float32; at least one position and one token.
        tokens_BT: int64.
        lengths_B: number of positions of each output, at least 1.
        tgt_lengths_B: number of tokens of each target, at least 1.
        variables_BLS: result of `ctc_variables`.
    """
    batch, _, num_symbols = log_probs_BLK.shape
    totals_B, shares_BLS = log_probs_BLK.new_empty(batch), torch.empty_like(variables_BLS)
    _launch_ctc(
        _ctc_shares_kernel,
        log_probs_BLK,
        tokens_BT,
        lengths_B.contiguous(),
        tgt_lengths_B.contiguous(),
        variables_BLS,
        log_probs_BLK.new_empty(batch, 2, num_symbols),
        totals_B,
        shares_BLS,
    )
    return totals_B, shares_BLS


def ctc_alignment(log_probs_BLK: Tensor, tokens_BT: Tensor, lengths_B: Tensor, tgt_lengths_B: Tensor) -> Tensor:
    """Return the state of each position on the most probable path of CTC, int64 [B, L].

    The rules of `kdmt.losses.ctc.ctc_best_alignment` hold for equally probable paths and for outputs without a path.

    Args:
        log_probs_BLK: float32; at least one position and one token.
        tokens_BT: int64.
        lengths_B: number of positions of each output, at least 1.
        tgt_lengths_B: number of tokens of each target, at least 1.
    """
    batch, length, num_symbols = log_probs_BLK.shape
    states_BL = tokens_BT.new_empty(batch, length)
    _launch_ctc(
        _ctc_alignment_kernel,
        log_probs_BLK,
        tokens_BT,
        lengths_B.contiguous(),
        tgt_lengths_B.contiguous(),
        log_probs_BLK.new_empty(batch, 2, num_symbols - 1),
        torch.empty(batch, length, 2 * num_symbols - 1, dtype=torch.int8, device=log_probs_BLK.device),
        states_BL,
    )
    return states_BL


def _launch_ctc(kernel: Any, log_probs_BLK: Tensor, tokens_BT: Tensor, *args: Tensor) -> None:
    """Run a program for each sentence, on the device of the log-probabilities."""
    batch, length, num_symbols = log_probs_BLK.shape
    if not batch:
        return
    block = triton.next_power_of_2(num_symbols)
    tensors = log_probs_BLK.contiguous(), tokens_BT.contiguous(), *args
    with torch.cuda.device_of(log_probs_BLK):
        # a single stage: a load of the next position must not be moved before the barrier
        kernel[(batch,)](
            *tensors, length, num_symbols - 1, BLOCK=block, num_warps=min(8, max(1, block // 64)), num_stages=1
        )
