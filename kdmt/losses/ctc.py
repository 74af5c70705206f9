"""Connectionist temporal classification: the probability of a target over all its alignments with a longer output.

Each position of the output is a token or a blank; merging repeated tokens and then dropping blanks gives the target
(Graves et al. 2006; for translation Libovicky & Helcl 2018). A target of T tokens has 2 T + 1 states: a blank, then
each token and the blank after it. A path moves from a state to the same state, to the next state, or past a blank to
the next token if the two tokens differ.

Only the probabilities of the target tokens and of the blank are needed, so that no distribution over the vocabulary is
stored (`gathered_log_probs`).

Shapes: B batch, L output positions, T target tokens, S = 2 T + 1 states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def ctc_log_likelihood(
    blank_BL: Tensor, match_BLT: Tensor, tgt_tokens_BT: Tensor, *, lengths_B: Tensor, tgt_lengths_B: Tensor
) -> Tensor:
    """Return log P(target), natural, [B]; -inf if the output is too short to have an alignment with the target.

    Args:
        blank_BL: log-probability of the blank at each position.
        match_BLT: log-probability of each target token at each position.
        tgt_tokens_BT: int64; the values in the padding do not matter.
        lengths_B: number of positions of each output.
        tgt_lengths_B: number of tokens of each target, at least 1.
    """
    return _CTC.apply(blank_BL, match_BLT, tgt_tokens_BT, lengths_B, tgt_lengths_B)


def ctc_best_alignment(
    blank_BL: Tensor, match_BLT: Tensor, tgt_tokens_BT: Tensor, *, lengths_B: Tensor, tgt_lengths_B: Tensor
) -> Tensor:
    """Return the state of each position on the most probable path, int64 [B, L].

    An odd state is token (state - 1) / 2. Positions beyond the length of an output, and all positions of an output
    that has no alignment, are 0, a blank.
    """
    emit_BLS, skips_BS = _emissions(blank_BL, match_BLT), _skips(tgt_tokens_BT)
    best_BS = _start(emit_BLS)
    came_from = []
    for position in range(1, emit_BLS.size(1)):
        best = _ways(best_BS, skips_BS).max(-1)
        came_from.append(best.indices)
        best_BS = _go_on(best_BS, best.values + emit_BLS[:, position], position < lengths_B)
    ends_B2 = _end_states(tgt_lengths_B)
    scores_B2 = best_BS.gather(1, ends_B2)
    state_B1 = ends_B2.gather(1, scores_B2.argmax(1, keepdim=True))
    possible_B = scores_B2.amax(1) > -torch.inf
    states = []
    for position in range(emit_BLS.size(1) - 1, -1, -1):
        inside_B1 = (position < lengths_B)[:, None]
        states.append(torch.where(inside_B1 & possible_B[:, None], state_B1, 0))
        if position:
            state_B1 = torch.where(inside_B1, state_B1 - came_from[position - 1].gather(1, state_B1), state_B1)
    return torch.cat(states[::-1], dim=1)


class _CTC(torch.autograd.Function):
    """CTC likelihood by forward and backward variables.

    The product of the two is the gradient: the share of the paths through each state.
    """

    @staticmethod
    def forward(
        ctx: Any, blank_BL: Tensor, match_BLT: Tensor, tokens_BT: Tensor, lengths_B: Tensor, tgt_lengths_B: Tensor
    ) -> Tensor:
        emit_BLS, skips_BS = _emissions(blank_BL, match_BLT), _skips(tokens_BT)
        alpha_BS = _start(emit_BLS)
        alphas = [alpha_BS]
        for position in range(1, emit_BLS.size(1)):
            arrived_BS = _ways(alpha_BS, skips_BS).logsumexp(-1) + emit_BLS[:, position]
            alpha_BS = _go_on(alpha_BS, arrived_BS, position < lengths_B)
            alphas.append(alpha_BS)
        total_B = alpha_BS.gather(1, _end_states(tgt_lengths_B)).logsumexp(1)
        ctx.save_for_backward(emit_BLS, skips_BS, torch.stack(alphas, dim=1), lengths_B, tgt_lengths_B, total_B)
        return total_B

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        emit_BLS, skips_BS, alpha_BLS, lengths_B, tgt_lengths_B, total_B = ctx.saved_tensors
        beta_BS = torch.full_like(emit_BLS[:, 0], -torch.inf).scatter_(1, _end_states(tgt_lengths_B), 0.0)
        betas = [beta_BS]
        for position in range(emit_BLS.size(1) - 1, 0, -1):
            left_BS = _ways_back(beta_BS + emit_BLS[:, position], skips_BS).logsumexp(-1)
            beta_BS = _go_on(beta_BS, left_BS, position < lengths_B)
            betas.append(beta_BS)
        share_BLS = (alpha_BLS + torch.stack(betas[::-1], dim=1) - total_B[:, None, None]).exp_()
        inside_BL = torch.arange(emit_BLS.size(1), device=emit_BLS.device) < lengths_B[:, None]
        possible_B = total_B > -torch.inf
        keep_BL1 = (inside_BL & possible_B[:, None])[:, :, None]
        gradient_BLS = torch.where(keep_BL1, share_BLS, 0.0) * grad_B[:, None, None]
        return gradient_BLS[:, :, ::2].sum(-1), gradient_BLS[:, :, 1::2], None, None, None


def _emissions(blank_BL: Tensor, match_BLT: Tensor) -> Tensor:
    """Return the log-probability of the symbol of each state at each position: [B, L, S]."""
    emit_BLS = blank_BL[:, :, None].repeat(1, 1, 2 * match_BLT.size(2) + 1)
    emit_BLS[:, :, 1::2] = match_BLT
    return emit_BLS


def _skips(tokens_BT: Tensor) -> Tensor:
    """Return 0 where a path may reach a state by skipping the blank before it, else -inf: [B, S]."""
    skips_BS = torch.full((len(tokens_BT), 2 * tokens_BT.size(1) + 1), -torch.inf, device=tokens_BT.device)
    skips_BS[:, 3::2].masked_fill_(tokens_BT[:, 1:] != tokens_BT[:, :-1], 0.0)
    return skips_BS


def _start(emit_BLS: Tensor) -> Tensor:
    """Return the log-probabilities at the first position: a path starts with the first blank or the first token."""
    start_BS = torch.full_like(emit_BLS[:, 0], -torch.inf)
    start_BS[:, :2] = emit_BLS[:, 0, :2]
    return start_BS


def _ways(before_BS: Tensor, skips_BS: Tensor) -> Tensor:
    """Return the scores of the ways into each state, [B, S, 3]: from itself, from the state before, past a blank."""
    one_BS, two_BS = _shifted(before_BS, 1), _shifted(before_BS, 2)
    return torch.stack([before_BS, one_BS, two_BS + skips_BS], dim=-1)


def _ways_back(after_BS: Tensor, skips_BS: Tensor) -> Tensor:
    """Return the scores of the ways out of each state, [B, S, 3]: to itself, to the next state, past a blank."""
    one_BS, two_BS = _shifted(after_BS, -1), _shifted(after_BS + skips_BS, -2)
    return torch.stack([after_BS, one_BS, two_BS], dim=-1)


def _shifted(values_BS: Tensor, by: int) -> Tensor:
    shifted_BS = torch.full_like(values_BS, -torch.inf)
    if by > 0:
        shifted_BS[:, by:] = values_BS[:, :-by]
    else:
        shifted_BS[:, :by] = values_BS[:, -by:]
    return shifted_BS


def _go_on(old_BS: Tensor, new_BS: Tensor, inside_B: Tensor) -> Tensor:
    """Return the new values for outputs that go on, and the old values for outputs that have ended."""
    return torch.where(inside_B[:, None], new_BS, old_BS)


def _end_states(tgt_lengths_B: Tensor) -> Tensor:
    """Return the states in which a path may end, the last token and the blank after it: [B, 2]."""
    return torch.stack([2 * tgt_lengths_B - 1, 2 * tgt_lengths_B], dim=1)
