"""Label-smoothed cross entropy. Shapes: M target tokens, V vocabulary, D model width.

Losses return sums, never means; the caller divides once by its count of tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def label_smoothed_cross_entropy(logits_MV: Tensor, targets_M: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """The plain formula: sums over the tokens of the smoothed loss and of the negative log-likelihood.

    fairseq's form of label smoothing (Szegedy et al. 2016, section 7; label_smoothed_cross_entropy.py): the correct
    token keeps 1 - epsilon and epsilon is spread evenly over the V - 1 others:

        loss = -(1 - e - e / (V-1)) log p(y) - e / (V-1) sum_v log p(v)
    """
    log_probs_MV = F.log_softmax(logits_MV.float() if logits_MV.dtype != torch.float64 else logits_MV, dim=-1)
    nll_sum = -log_probs_MV.gather(1, targets_M[:, None]).sum()
    each = epsilon / (logits_MV.size(1) - 1)
    return (1.0 - epsilon - each) * nll_sum - each * log_probs_MV.sum(), nll_sum


class _ProjectedCrossEntropy(torch.autograd.Function):
    """Output projection and loss in chunks of tokens, the gradient taken in the same pass.

    Matrix products run in the autocast type where autocast is on; sums, exponentials and the gradient of the
    projection stay in the type of the parameters.
    """

    @staticmethod
    def forward(
        ctx: Any, features_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, epsilon: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        device = features_MD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
        with torch.autocast(device, enabled=False):
            weight = weight_VD.to(dtype)
            needs_grad = any(ctx.needs_input_grad[:2])
            grad_features_MD = torch.empty_like(features_MD) if needs_grad else None
            grad_weight_VD = torch.zeros_like(weight_VD) if needs_grad else None
            sums_2 = weight_VD.new_zeros(2)
            for start in range(0, features_MD.size(0), chunk):
                rows = slice(start, start + chunk)
                features = features_MD[rows].to(dtype)
                logits = (features @ weight.t()).to(weight_VD.dtype)
                sums_2 += _to_log_probs(logits, targets_M[rows], epsilon)
                if grad_features_MD is not None and grad_weight_VD is not None:
                    _to_gradient(logits, targets_M[rows], epsilon)
                    gradient = logits.to(dtype)
                    grad_features_MD[rows] = gradient @ weight
                    _add_product(grad_weight_VD, gradient.t(), features)
        if needs_grad:
            ctx.save_for_backward(grad_features_MD, grad_weight_VD)
        loss_sum, nll_sum = sums_2[0].clone(), sums_2[1].clone()
        ctx.mark_non_differentiable(nll_sum)
        return loss_sum, nll_sum

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_features_MD, grad_weight_VD = ctx.saved_tensors
        return (grad_features_MD * grad_loss).to(grad_features_MD.dtype), grad_weight_VD * grad_loss, None, None, None


def _to_log_probs(logits_MV: Tensor, targets_M: Tensor, epsilon: float) -> Tensor:
    """Turn logits into log-probabilities in place; the sums of the smoothed loss and of the NLL: [2]."""
    each = epsilon / (logits_MV.size(1) - 1)
    logits_MV.sub_(logits_MV.logsumexp(dim=1, keepdim=True))
    nll = -logits_MV.gather(1, targets_M[:, None]).sum()
    loss = (1.0 - epsilon - each) * nll
    if each:
        loss = loss - each * logits_MV.sum()
    return torch.stack([loss, nll])


def _to_gradient(log_probs_MV: Tensor, targets_M: Tensor, epsilon: float) -> None:
    """In place: d loss / d logits = p - e/(V-1) - [v = y] (1 - e - e/(V-1))."""
    each = epsilon / (log_probs_MV.size(1) - 1)
    log_probs_MV.exp_()
    if each:
        log_probs_MV.sub_(each)
    target_weight = torch.full_like(targets_M, -(1.0 - epsilon - each), dtype=log_probs_MV.dtype)
    log_probs_MV.scatter_add_(1, targets_M[:, None], target_weight[:, None])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in total's type."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def projected_cross_entropy(
    features_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, *, epsilon: float, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """`label_smoothed_cross_entropy(features @ weight.T, targets)` without ever holding the [M, V] matrix.

    Args:
        features_MD: decoder features of the real target tokens.
        weight_VD: output projection.
        targets_M: int64 ids.
        epsilon: label smoothing.
        chunk: tokens whose logits exist at one time.

    Returns:
        The sum of the smoothed loss (it carries the gradient) and the sum of the negative log-likelihood, in nats.
    """
    if not torch.is_grad_enabled():  # a Function cannot tell, and would take the gradient for every parameter
        features_MD, weight_VD = features_MD.detach(), weight_VD.detach()
    return _ProjectedCrossEntropy.apply(features_MD, weight_VD, targets_M, epsilon, chunk)
