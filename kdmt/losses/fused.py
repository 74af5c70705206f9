"""Faster paths of the losses on CUDA devices, and the tests of whether a device and the installed PyTorch have them.

Four things are tried once per device and process, when they are first needed: the Triton kernel of cross entropy,
those of word-level distillation, those of CTC (all in `kdmt.losses.triton_kernels`), and matrix products of bfloat16
factors that are added up in float32 (`torch.addmm` with `out_dtype`). Where one of them is missing, does not compile or
does not give the right result, its losses use plain PyTorch operations, as on a CPU, and a warning says so.
`without_kernels` makes them do so everywhere, for comparisons.

Kernels need a GPU that computes in bfloat16 (compute capability 8.0), the package `triton`, which comes with PyTorch
for CUDA on Linux, and a C compiler, which Triton calls when it starts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

_logger = logging.getLogger(__name__)

_PRODUCT_TYPES = (torch.bfloat16, torch.float32)
_wanted: ContextVar[bool] = ContextVar("wanted", default=True)


@contextmanager
def without_kernels() -> Iterator[None]:
    """Compute the losses of the body with PyTorch operations, for comparisons with the Triton kernels."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


def kernels(device: torch.device, product_type: torch.dtype) -> ModuleType | None:
    """Return `kdmt.losses.triton_kernels`; None to compute the losses with PyTorch operations.

    Args:
        device: device of the logits.
        product_type: number type of the logits.
    """
    return _kernels(device) if product_type in _PRODUCT_TYPES and _wanted.get() and _is_cuda(device) else None


def distils(device: torch.device) -> bool:
    """Return whether the kernels of word-level distillation can be used on a device; see `kernels` for the others."""
    return _wanted.get() and _is_cuda(device) and _distils(device)


def _is_cuda(device: torch.device) -> bool:
    """Return whether a tensor of this device is on a GPU: a simulated device reports `cuda` in a CPU build as well."""
    return device.type == "cuda" and bool(torch.version.cuda or torch.version.hip)


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    if torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from kdmt.losses import triton_kernels  # loads triton

        # as in training: bfloat16, more than one block of columns, label smoothing; of equal logits each loss is log V
        columns, smoothing = triton_kernels.BLOCK + 8, 0.1
        each = smoothing / (columns - 1)
        sums_2C = triton_kernels.cross_entropy_(
            torch.zeros(1, columns, device=device, dtype=torch.bfloat16),
            torch.zeros(1, dtype=torch.int64, device=device),
            None,
            target_share=1.0 - smoothing - each,
            each=each,
            gradient=True,
        )
        torch.testing.assert_close(sums_2C.cpu(), torch.full((2, 1), float(columns)).log())
    except Exception as error:  # Triton and the compilers that it calls raise errors of many types
        _logger.warning("the losses are computed without Triton kernels, which is slower: %s", error)
        return None
    return triton_kernels


@cache
def _distils(device: torch.device) -> bool:
    triton_kernels = _kernels(device)
    if triton_kernels is None:
        return False
    try:
        _try_distillation(triton_kernels, device)
    except Exception as error:  # as above
        _logger.warning("word-level distillation is computed without Triton kernels, which is slower: %s", error)
        return False
    return True


@torch.no_grad()
def _try_distillation(triton_kernels: ModuleType, device: torch.device) -> None:
    """Raise an error unless both kernels of word-level distillation give the loss and the gradient of the formula.

    As in training: bfloat16, more than one block of columns, label smoothing, a temperature. The largest logit of the
    student in the second row, and one of the teacher's best tokens, are in the second block.
    """
    columns, temperature, alpha, smoothing = triton_kernels.BLOCK + 8, 2.0, 0.5, 0.1
    each = smoothing / (columns - 1)
    places_V = torch.arange(columns, device=device)
    peaks_V = (places_V == 40).float() + (places_V == columns - 3).float()
    student_CV = torch.stack([places_V % 17 / 4.0, places_V % 5 / 4.0 + 6.0 * peaks_V.cumsum(0) * peaks_V])
    teacher_CV = torch.stack([places_V % 13 / 4.0 + 4.0 * peaks_V, places_V % 7 / 4.0 + 8.0 * peaks_V])
    targets_C = places_V[:2] + 39  # the second one is a peak
    settings = triton_kernels.WordKD(
        temperature=temperature,
        alpha=alpha,
        scale=temperature**2,
        has_references=True,
        minus_entropy=True,
        target_share=1.0 - smoothing - each,
        each=each,
    )
    whole_CV = (teacher_CV / temperature).softmax(1)
    best_CK, ids_CK = whole_CV.topk(4, dim=1)
    rest_C1 = 1.0 - best_CK.sum(1, keepdim=True)
    # the mass of the other tokens is divided in the proportions of the student
    others_CV = (student_CV / temperature).softmax(1).scatter(1, ids_CK, 0.0)
    divided_CV = (others_CV / others_CV.sum(1, keepdim=True) * rest_C1).scatter(1, ids_CK, best_CK)
    known = ids_CK, torch.cat([best_CK, rest_C1], dim=1).log()
    shared = targets_C, None, None, settings
    for probs_CV, best in ((whole_CV, None), (divided_CV, known)):
        logits_CV = student_CV.bfloat16()  # without rounding
        if best is None:
            sums_4C = triton_kernels.whole_distribution_(logits_CV, teacher_CV.bfloat16(), *shared, gradient=True)
        else:
            sums_4C = triton_kernels.best_tokens_(logits_CV, *best, *shared, log_zero=-1e4, gradient=True)
        sums_2C, gradient_CV = _distillation(student_CV, probs_CV, targets_C, temperature, alpha, smoothing)
        torch.testing.assert_close(sums_4C[[0, 2]], sums_2C, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(logits_CV.float(), gradient_CV, rtol=2**-6, atol=1e-6)


def _distillation(
    student_CV: Tensor, probs_CV: Tensor, targets_C: Tensor, temperature: float, alpha: float, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return loss and divergence of each token, [2, C], and the gradient of the sum of the losses, by the formulas.

    Args:
        student_CV: logits.
        probs_CV: probabilities of the teacher.
    """
    log_probs_CV, soft_CV = student_CV.log_softmax(1), (student_CV / temperature).log_softmax(1)
    wanted_CV = torch.full_like(log_probs_CV, smoothing / (log_probs_CV.size(1) - 1))
    wanted_CV.scatter_(1, targets_C[:, None], 1.0 - smoothing)
    divergence_C = temperature**2 * (probs_CV * (probs_CV.log() - soft_CV)).sum(1)
    loss_C = alpha * divergence_C - (1.0 - alpha) * (wanted_CV * log_probs_CV).sum(1)
    gradient_CV = (1.0 - alpha) * (log_probs_CV.exp() - wanted_CV) + alpha * temperature * (soft_CV.exp() - probs_CV)
    return torch.stack([loss_C, divergence_C]), gradient_CV


def ctc_kernels(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Return `kdmt.losses.triton_kernels`; None to compute the recursions of CTC with PyTorch operations.

    Args:
        device: device of the log-probabilities.
        dtype: number type of the log-probabilities.
    """
    return _ctc_kernels(device) if dtype == torch.float32 and _wanted.get() and _is_cuda(device) else None


@cache
def _ctc_kernels(device: torch.device) -> ModuleType | None:
    triton_kernels = _kernels(device)
    if triton_kernels is None:
        return None
    try:
        _try_ctc(triton_kernels, device)
    except Exception as error:  # as above
        _logger.warning("CTC is computed without Triton kernels, which is slower: %s", error)
        return None
    return triton_kernels


def _try_ctc(triton_kernels: ModuleType, device: torch.device, num_tokens: int = 300) -> None:
    """Raise an error unless the kernels of CTC find the only path of a target whose token t is at position t.

    Each position depends on the position before by the score of the token before, so that an exchange of scores
    between threads that is not complete gives another result.
    """
    tokens_1T = torch.arange(num_tokens, device=device)[None]
    lengths_1 = torch.full((1,), num_tokens, device=device)
    log_probs_1LK = torch.full((1, num_tokens, num_tokens + 1), -torch.inf, device=device)
    log_probs_1LK[0, :, 1:].fill_diagonal_(0.0)
    states_1L = triton_kernels.ctc_alignment(log_probs_1LK, tokens_1T, lengths_1, lengths_1)
    torch.testing.assert_close(states_1L, 2 * tokens_1T + 1)
    variables_1LS = triton_kernels.ctc_variables(log_probs_1LK, tokens_1T)
    expected_1LS = torch.full_like(variables_1LS, -torch.inf)
    expected_1LS[0, :, 1::2].fill_diagonal_(0.0)
    torch.testing.assert_close(variables_1LS, expected_1LS)
    totals_1, shares_1LS = triton_kernels.ctc_shares(log_probs_1LK, tokens_1T, lengths_1, lengths_1, variables_1LS)
    torch.testing.assert_close(totals_1.cpu(), torch.tensor([0.0]))
    torch.testing.assert_close(shares_1LS, expected_1LS.exp())


def sums_in_float32(device: torch.device) -> bool:
    """Return whether `torch.addmm` on the device adds products of bfloat16 factors to a float32 matrix, in place.

    PyTorch has the argument `out_dtype` from version 2.8 on; the first versions reject a float32 matrix as `input`.
    """
    return _is_cuda(device) and _adds_in_float32(device)


@cache
def _adds_in_float32(device: torch.device) -> bool:
    total = torch.ones(8, 8, device=device)
    factor = torch.ones(8, 8, dtype=torch.bfloat16, device=device)
    try:
        torch.addmm(total, factor, factor, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 9.0).all())


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right, which may have another number type, to `total`.

    The product of bfloat16 factors is added in float32 if the device can do so (`sums_in_float32`); otherwise it is
    rounded to bfloat16 first.
    """
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif total.dtype == torch.float32 and sums_in_float32(total.device):
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total += left @ right


def write_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Write left @ right to `out`, which may have another number type. See `add_product` for the rounding."""
    if left.dtype == out.dtype:
        torch.mm(left, right, out=out)
    elif out.dtype == torch.float32 and sums_in_float32(out.device):
        torch.mm(left, right, out_dtype=torch.float32, out=out)
    else:
        out.copy_(left @ right)
