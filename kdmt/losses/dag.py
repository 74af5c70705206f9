"""Probability of a target under a directed acyclic decoder, over all paths (Huang et al. 2022, DA-Transformer).

A decoder of L vertices gives for each vertex a distribution over tokens and a distribution over the later vertices. A
path begins at the first vertex, ends at the last one and has as many vertices as the target has tokens:

    P(y) = sum over paths a of  prod_t P(y_t | a_t)  prod_t E(a_t | a_{t-1})

Sums over vertices are matrix products of exponentials, in float64, after the maximum has been subtracted from the
exponents: a path that is 700 nats less likely than the best one may still matter.

Shapes: B batch, T target tokens, L vertices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LARGEST = 340.0  # exponent whose exponential squared is finite in float64, also as a sum of thousands of terms
_NEGLIGIBLE = -80.0  # logarithm of a share of the paths that is too small to change a sum


def dag_log_likelihood(match_BTL: Tensor, links_BLL: Tensor, *, tgt_lengths_B: Tensor, vertices_B: Tensor) -> Tensor:
    """Return log P(target), natural, [B].

    It is -inf for a target that has no path: a target of more tokens than vertices, or of a single token.

    Args:
        match_BTL: log-probability of each target token at each vertex.
        links_BLL: log-probability of the second vertex after the first, -inf where it is not later.
        tgt_lengths_B: number of tokens of each target.
        vertices_B: number of vertices of each sentence; values beyond them are ignored.
    """
    return _DAG.apply(match_BTL, links_BLL, tgt_lengths_B, vertices_B)


@torch.no_grad()
def dag_best_alignment(match_BTL: Tensor, links_BLL: Tensor, *, tgt_lengths_B: Tensor, vertices_B: Tensor) -> Tensor:
    """Return the vertex of each target token on the most probable path, int64 [B, T].

    Positions beyond the length of a target have the last vertex.
    """
    last_B1 = (vertices_B - 1)[:, None]
    best_BL = _start(match_BTL)
    came_from = []
    for step in range(1, match_BTL.size(1)):
        best = (best_BL[:, :, None] + links_BLL).max(1)
        came_from.append(best.indices)
        best_BL = torch.where((step < tgt_lengths_B)[:, None], best.values + match_BTL[:, step], best_BL)
    vertex_B1, vertices = last_B1, []
    for step in range(match_BTL.size(1) - 1, -1, -1):
        vertices.append(vertex_B1)
        if step:
            inside_B1 = (step < tgt_lengths_B)[:, None]
            vertex_B1 = torch.where(inside_B1, came_from[step - 1].gather(1, vertex_B1), vertex_B1)
    return torch.cat(vertices[::-1], dim=1)


class _DAG(torch.autograd.Function):
    """Likelihood of a directed acyclic decoder by forward and backward variables.

    The gradient is the share of the paths through each vertex and along each link.
    """

    @staticmethod
    def forward(ctx: Any, match_BTL: Tensor, links_BLL: Tensor, tgt_lengths_B: Tensor, vertices_B: Tensor) -> Tensor:
        match, steps_BLL = match_BTL.double(), links_BLL.double().exp()
        alpha_BL = _start(match)
        alphas = [alpha_BL]
        for step in range(1, match.size(1)):
            arrived_BL = _log_product(alpha_BL, steps_BLL) + match[:, step]
            alpha_BL = torch.where((step < tgt_lengths_B)[:, None], arrived_BL, alpha_BL)
            alphas.append(alpha_BL)
        total_B = alpha_BL.gather(1, (vertices_B - 1)[:, None])[:, 0]
        ctx.save_for_backward(match, steps_BLL, torch.stack(alphas, dim=1), tgt_lengths_B, vertices_B, total_B)
        ctx.dtype = match_BTL.dtype
        return total_B.to(match_BTL.dtype)

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, Tensor, None, None]:
        match_BTL, steps_BLL, alpha_BTL, tgt_lengths_B, vertices_B, total_B = ctx.saved_tensors
        beta_BL = torch.full_like(match_BTL[:, 0], -torch.inf).scatter_(1, (vertices_B - 1)[:, None], 0.0)
        back_BLL = steps_BLL.transpose(1, 2)
        betas = [beta_BL]
        for step in range(match_BTL.size(1) - 1, 0, -1):
            left_BL = _log_product(beta_BL + match_BTL[:, step], back_BLL)
            beta_BL = torch.where((step < tgt_lengths_B)[:, None], left_BL, beta_BL)
            betas.append(beta_BL)
        beta_BTL = torch.stack(betas[::-1], dim=1)
        inside_BT = torch.arange(match_BTL.size(1), device=match_BTL.device) < tgt_lengths_B[:, None]
        keep_BT1 = (inside_BT & (total_B > -torch.inf)[:, None])[:, :, None]
        after_BTL = torch.where(keep_BT1, beta_BTL - total_B[:, None, None], -torch.inf)
        log_share_BTL = alpha_BTL + after_BTL
        shares_BLL = _link_shares(alpha_BTL, match_BTL + after_BTL, log_share_BTL > _NEGLIGIBLE, steps_BLL)
        return (
            (log_share_BTL.exp() * grad_B[:, None, None]).to(ctx.dtype),
            (shares_BLL * grad_B[:, None, None]).to(ctx.dtype),
            None,
            None,
        )


def _start(match_BTL: Tensor) -> Tensor:
    """Return the log-probabilities at the first token, which is at the first vertex: [B, L]."""
    start_BL = torch.full_like(match_BTL[:, 0], -torch.inf)
    start_BL[:, 0] = match_BTL[:, 0, 0]
    return start_BL


def _log_product(logs_BL: Tensor, steps_BLL: Tensor) -> Tensor:
    """Return log sum_u exp(logs_u) steps_uv: [B, L]."""
    peak_B1 = _finite(logs_BL.amax(1, keepdim=True))
    return torch.bmm((logs_BL - peak_B1).exp_()[:, None], steps_BLL)[:, 0].log_().add_(peak_B1)


def _link_shares(alpha_BTL: Tensor, after_BTL: Tensor, live_BTL: Tensor, steps_BLL: Tensor) -> Tensor:
    """Return the expected number of times that a path uses each link: [B, L, L].

    This is the sum over t of exp(alpha_t(u) + E(u, v) + after_{t+1}(v)), a product of two matrices. The values of alpha
    and of `after` that matter may lie hundreds of nats above or below 0, therefore a constant between the largest and
    the smallest one is moved from alpha to `after`.

    Args:
        alpha_BTL: forward variables, as logarithms.
        after_BTL: match_t(v) + beta_t(v) - log P.
        live_BTL: bool, vertices with a share of the paths at that token that is not negligible.
        steps_BLL: probabilities of the links.
    """
    from_BTL, to_BTL = live_BTL[:, :-1], live_BTL[:, 1:]
    before_BTL = alpha_BTL[:, :-1]
    highest_BT1 = before_BTL.masked_fill(~from_BTL, -torch.inf).amax(2, keepdim=True)
    lowest_BT1 = before_BTL.masked_fill(~from_BTL, torch.inf).amin(2, keepdim=True)
    middle_BT1 = torch.where(from_BTL.any(2, keepdim=True), (highest_BT1 + lowest_BT1) / 2, 0.0)
    first, second = (
        torch.where(live, logs.clamp_max(_LARGEST).exp(), 0.0)
        for live, logs in ((from_BTL, before_BTL - middle_BT1), (to_BTL, after_BTL[:, 1:] + middle_BT1))
    )
    return torch.bmm(first.transpose(1, 2), second).mul_(steps_BLL)


def _finite(peaks: Tensor) -> Tensor:
    """Return the maxima, with 0 in place of -inf."""
    return torch.where(peaks > -torch.inf, peaks, 0.0)
