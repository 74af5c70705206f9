"""Probability of a target under a directed acyclic decoder, over all paths (Huang et al. 2022, DA-Transformer).

A decoder of L vertices gives for each vertex a distribution over tokens and a distribution over the later vertices. A
path begins at the first vertex, ends at the last one and has as many vertices as the target has tokens:

    P(y) = sum over paths a of  prod_t P(y_t | a_t)  prod_t E(a_t | a_{t-1})

Sums over vertices are matrix products of exponentials, in float64, after the maximum has been subtracted from the
exponents: a path that is 700 nats less likely than the best one may still matter.

Shapes: B batch, T target tokens, L vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    if not torch.is_grad_enabled():  # an autograd Function cannot see this and would compute the gradient
        match_BTL, links_BLL = match_BTL.detach(), links_BLL.detach()
    return _DAG.apply(match_BTL, links_BLL, tgt_lengths_B, vertices_B)


@torch.no_grad()
def dag_best_alignment(match_BTL: Tensor, links_BLL: Tensor, *, tgt_lengths_B: Tensor, vertices_B: Tensor) -> Tensor:
    """Return the vertex of each target token on the most probable path, int64 [B, T].

    Positions beyond the length of a target have the last vertex.
    """
    best_BL, came_from = _first(match_BTL[:, 0], 0), []
    for match_BL in match_BTL.unbind(1)[1:]:
        best = (best_BL[:, :, None] + links_BLL).max(1)
        came_from.append(best.indices)
        best_BL = best.values + match_BL
    vertex_B1 = (vertices_B - 1)[:, None]
    vertices = [vertex_B1]
    if came_from:
        inside_TB = torch.arange(1, match_BTL.size(1), device=match_BTL.device)[:, None] < tgt_lengths_B
        same_L = torch.arange(match_BTL.size(2), device=match_BTL.device)
        for before_BL in torch.where(inside_TB[:, :, None], torch.stack(came_from), same_L).flip(0).unbind():
            vertex_B1 = before_BL.gather(1, vertex_B1)
            vertices.append(vertex_B1)
    return torch.cat(vertices[::-1], dim=1)


class _DAG(torch.autograd.Function):
    """Likelihood of a directed acyclic decoder by forward and backward variables, which are computed together.

    The gradient is the share of the paths through each vertex and along each link. It is computed in the forward pass,
    if it is needed.
    """

    @staticmethod
    def forward(ctx: Any, match_BTL: Tensor, links_BLL: Tensor, tgt_lengths_B: Tensor, vertices_B: Tensor) -> Tensor:
        match, steps_BLL = match_BTL.double(), links_BLL.double().exp()
        last_B, last_B1 = tgt_lengths_B - 1, (vertices_B - 1)[:, None]
        starts, gains, steps = [_first(match[:, 0], 0)], [match], [steps_BLL]
        if any(ctx.needs_input_grad):
            back_BT = (last_B[:, None] - torch.arange(match.size(1), device=match.device)).clamp_min_(0)
            back_BTL = back_BT[:, :, None].expand_as(match)
            gains.append(match.gather(1, back_BTL))
            starts.append(_first(gains[1][:, 0], last_B1))
            steps.append(steps_BLL.transpose(1, 2))
        alpha_BTL, *betas = _variables(torch.stack(starts), torch.stack(gains), steps)
        total_B = alpha_BTL.gather(1, last_B[:, None, None].expand(-1, 1, match.size(2)))[:, 0].gather(1, last_B1)[:, 0]
        if betas:
            beta_BTL = betas[0].gather(1, back_BTL)
            inside_BT = torch.arange(match.size(1), device=match.device) < tgt_lengths_B[:, None]
            keep_BT = inside_BT & (total_B > -torch.inf)[:, None]
            shares = _shares(alpha_BTL, beta_BTL - total_B[:, None, None], match, keep_BT, steps_BLL)
            ctx.save_for_backward(*(each.to(match_BTL.dtype) for each in shares))
        return total_B.to(match_BTL.dtype)

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, Tensor, None, None]:
        vertices_BTL, shares_BLL = ctx.saved_tensors
        return vertices_BTL * grad_B[:, None, None], shares_BLL * grad_B[:, None, None], None, None


def _first(match_BL: Tensor, vertex: Tensor | int) -> Tensor:
    """Return the log-probabilities at one vertex of each sentence, and -inf at the others: [B, L]."""
    columns_L = torch.arange(match_BL.size(1), device=match_BL.device)
    return match_BL.masked_fill(columns_L != vertex, -torch.inf)


def _variables(start_NBL: Tensor, gains_NBTL: Tensor, steps: Sequence[Tensor]) -> Tensor:
    """Return the log-probabilities of all paths from a start to each vertex, for each number of tokens: [N, B, T, L].

    All values are float64. The variables of N directions do not depend on each other.

    Args:
        start_NBL: log-probabilities at the first token.
        gains_NBTL: log-probability of each token at each vertex.
        steps: for each direction, the probabilities of the links, [B, L, L].
    """
    logs_NBTL = torch.empty_like(gains_NBTL)
    logs_NBTL[:, :, 0] = start_NBL
    product_NBL = torch.empty_like(start_NBL)
    lowest = torch.finfo(start_NBL.dtype).min
    for logs_NBL, after_NBL, gains_NBL in zip(
        logs_NBTL.unbind(2), logs_NBTL.unbind(2)[1:], gains_NBTL.unbind(2)[1:], strict=False
    ):
        peak_NB1 = logs_NBL.amax(2, keepdim=True).clamp_min_(lowest)  # a finite number, also for -inf only
        exponentials_NBL = (logs_NBL - peak_NB1).exp_()
        for exponentials_BL, steps_BLL, product_BL in zip(exponentials_NBL, steps, product_NBL, strict=True):
            torch.bmm(exponentials_BL[:, None], steps_BLL, out=product_BL[:, None])
        torch.add(product_NBL.log_().add_(peak_NB1), gains_NBL, out=after_NBL)
    return logs_NBTL


def _shares(
    alpha_BTL: Tensor, after_BTL: Tensor, match_BTL: Tensor, keep_BT: Tensor, steps_BLL: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the share of the paths through each vertex, [B, T, L], and along each link, [B, L, L].

    Args:
        alpha_BTL: log-probability of the paths to each vertex, its match included.
        after_BTL: log-probability of the paths from each vertex to the end, its match included, minus log P.
        match_BTL: log-probability of each target token at each vertex.
        keep_BT: bool, tokens of targets that have a path.
        steps_BLL: probabilities of the links.
    """
    after_BTL = after_BTL.masked_fill(~keep_BT[:, :, None], -torch.inf)
    is_reached_BTL = (alpha_BTL > -torch.inf) & (after_BTL > -torch.inf)
    log_shares_BTL = (alpha_BTL + after_BTL - match_BTL).masked_fill_(~is_reached_BTL, -torch.inf)
    shares_BLL = _link_shares(alpha_BTL, after_BTL, log_shares_BTL > _NEGLIGIBLE, steps_BLL)
    return log_shares_BTL.exp_(), shares_BLL


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
