"""Connectionist temporal classification: the probability of a target over all its alignments with a longer output.

Each position of the output is a token or a blank; merging repeated tokens and then dropping blanks gives the target
(Graves et al. 2006; for translation Libovicky & Helcl 2018). A target of T tokens has 2 T + 1 states: a blank, then
each token and the blank after it. A path moves from a state to the same state, to the next state, or past a blank to
the next token if the two tokens differ.

Only the probabilities of the target tokens and of the blank are needed, so that no distribution over the vocabulary is
stored (`gathered_log_probs`).

The gradient of log P is the share of the paths through each state. On a GPU, Triton kernels compute it
(`kdmt.losses.triton_kernels`), and the best alignment. Without them it is computed from the forward variables of the
output and those of the reversed output: on a CPU by PyTorch's CTC loss, with the blank and the tokens of a sentence as
its classes, elsewhere by a recursion over positions. PyTorch's loss copies the lengths to a CUDA device, and the host
waits for each copy; the recursion has three kernels for each position and no wait.

Shapes: B batch, L output positions, T target tokens, K = 1 + T symbols (the blank, then the tokens), S = 2 T + 1
states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.losses import fused


def ctc_log_likelihood(
    blank_BL: Tensor, match_BLT: Tensor, tgt_tokens_BT: Tensor, *, lengths_B: Tensor, tgt_lengths_B: Tensor
) -> Tensor:
    """Return log P(target), natural, [B]; -inf if the output is too short to have an alignment with the target.

    Args:
        blank_BL: log-probability of the blank at each position.
        match_BLT: log-probability of each target token at each position; equal tokens have equal values.
        tgt_tokens_BT: int64; the values in the padding do not matter.
        lengths_B: number of positions of each output.
        tgt_lengths_B: number of tokens of each target, at least 1.
    """
    if not torch.is_grad_enabled():  # an autograd Function cannot see this and would compute the gradient
        blank_BL, match_BLT = blank_BL.detach(), match_BLT.detach()
    return _CTC.apply(blank_BL, match_BLT, tgt_tokens_BT, lengths_B, tgt_lengths_B)


@torch.no_grad()
def ctc_best_alignment(
    blank_BL: Tensor, match_BLT: Tensor, tgt_tokens_BT: Tensor, *, lengths_B: Tensor, tgt_lengths_B: Tensor
) -> Tensor:
    """Return the state of each position on the most probable path, int64 [B, L].

    An odd state is token (state - 1) / 2. Positions beyond the length of an output, and all positions of an output
    that has no alignment, are 0, a blank. Of several equally probable paths into a state, the path from the same state
    is chosen, or else the path from the state before.
    """
    log_probs_BLK = torch.cat([blank_BL[:, :, None], match_BLT], dim=2)
    kernels = fused.ctc_kernels(log_probs_BLK.device, log_probs_BLK.dtype)
    if kernels is not None:
        alignment_BL: Tensor = kernels.ctc_alignment(log_probs_BLK, tgt_tokens_BT, lengths_B, tgt_lengths_B)
        return alignment_BL
    return _recursive_alignment(log_probs_BLK, tgt_tokens_BT, lengths_B, tgt_lengths_B)


def _recursive_alignment(log_probs_BLK: Tensor, tokens_BT: Tensor, lengths_B: Tensor, tgt_lengths_B: Tensor) -> Tensor:
    """Return the best alignment by a recursion over positions, without a wait for a GPU."""
    ways_L3BS = _recursion(_emissions(log_probs_BLK), tokens_BT, _best)
    positions_L = torch.arange(len(ways_L3BS), device=log_probs_BLK.device)
    steps_LBS = torch.where((positions_L[1:, None] < lengths_B)[:, :, None], _best_steps(ways_L3BS[:-1]), 0)
    before_LBS = torch.arange(steps_LBS.size(2), device=log_probs_BLK.device) - steps_LBS
    scores_B2 = _scores_at_end(ways_L3BS[:, 0].transpose(0, 1), lengths_B, tgt_lengths_B)
    state_B1 = 2 * tgt_lengths_B[:, None] - 1 + scores_B2.argmax(1, keepdim=True)
    states_BL = _followed(before_LBS, state_B1)
    keep_BL = (positions_L < lengths_B[:, None]) & (scores_B2.amax(1, keepdim=True) > -torch.inf)
    return torch.where(keep_BL, states_BL, 0)


class _CTC(torch.autograd.Function):
    """CTC likelihood. The gradient is computed in the forward pass, if it is needed."""

    @staticmethod
    def forward(
        ctx: Any, blank_BL: Tensor, match_BLT: Tensor, tokens_BT: Tensor, lengths_B: Tensor, tgt_lengths_B: Tensor
    ) -> Tensor:
        log_probs_BLK = torch.cat([blank_BL[:, :, None], match_BLT], dim=2)
        log_probs_BLK = log_probs_BLK.to(torch.promote_types(log_probs_BLK.dtype, torch.float32))
        if any(ctx.needs_input_grad):
            total_B, shares_BLS = _state_shares(log_probs_BLK, tokens_BT, lengths_B, tgt_lengths_B)
            ctx.save_for_backward(shares_BLS)
            ctx.dtype = blank_BL.dtype
        else:
            alpha_BLS = _forward_variables(log_probs_BLK, tokens_BT, lengths_B, tgt_lengths_B)
            total_B = _scores_at_end(alpha_BLS, lengths_B, tgt_lengths_B).logsumexp(1)
        return total_B.to(blank_BL.dtype)

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (shares_BLS,) = ctx.saved_tensors
        gradient_BLS = shares_BLS * grad_B[:, None, None]
        blank_BL, match_BLT = gradient_BLS[:, :, ::2].sum(-1), gradient_BLS[:, :, 1::2]
        return blank_BL.to(ctx.dtype), match_BLT.to(ctx.dtype), None, None, None


def _state_shares(
    log_probs_BLK: Tensor, tokens_BT: Tensor, lengths_B: Tensor, tgt_lengths_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Return log P(target), [B], and the share of the paths through each state at each position, [B, L, S].

    The shares of a target that has no alignment are 0.
    """
    kernels = fused.ctc_kernels(log_probs_BLK.device, log_probs_BLK.dtype)
    if kernels is not None:
        alpha_BLS = kernels.ctc_variables(log_probs_BLK, tokens_BT)
        found: tuple[Tensor, Tensor] = kernels.ctc_shares(log_probs_BLK, tokens_BT, lengths_B, tgt_lengths_B, alpha_BLS)
        return found
    return _shares_of_both_directions(log_probs_BLK, tokens_BT, lengths_B, tgt_lengths_B)


def _shares_of_both_directions(
    log_probs_BLK: Tensor, tokens_BT: Tensor, lengths_B: Tensor, tgt_lengths_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the result of `_state_shares` from the forward variables of the output and of the reversed output."""
    back_BL, back_BT = _reversal(lengths_B, log_probs_BLK.size(1)), _reversal(tgt_lengths_B, tokens_BT.size(1))
    back_BLK = _selected(log_probs_BLK, back_BL, F.pad(back_BT + 1, (1, 0)))
    both = torch.cat([log_probs_BLK, back_BLK]), torch.cat([tokens_BT, tokens_BT.gather(1, back_BT)])
    alpha_BLS, beta_BLS = _forward_variables(*both, lengths_B.repeat(2), tgt_lengths_B.repeat(2)).chunk(2)
    total_B = _scores_at_end(alpha_BLS, lengths_B, tgt_lengths_B).logsumexp(1)
    num_states_B, size = 2 * tgt_lengths_B + 1, alpha_BLS.size(2)
    beta_BLS = _selected(beta_BLS, back_BL, _reversal(num_states_B, size))
    shares_BLS = alpha_BLS + beta_BLS
    shares_BLS -= _emissions(log_probs_BLK)  # alpha and beta both contain it
    shares_BLS -= total_B[:, None, None]
    inside_BL, inside_BS = _inside(lengths_B, alpha_BLS.size(1)), _inside(num_states_B, size)
    possible_B = total_B > -torch.inf
    shown_BLS = (inside_BL & possible_B[:, None])[:, :, None] & inside_BS[:, None] & (alpha_BLS > -torch.inf)
    return total_B, shares_BLS.masked_fill_(~shown_BLS, -torch.inf).exp_()


def _forward_variables(log_probs_BLK: Tensor, tokens_BT: Tensor, lengths_B: Tensor, tgt_lengths_B: Tensor) -> Tensor:
    """Return the log-probabilities of all paths to each state, [B, L, S]; any value beyond an output or a target."""
    kernels = fused.ctc_kernels(log_probs_BLK.device, log_probs_BLK.dtype)
    if kernels is not None:
        alpha_BLS: Tensor = kernels.ctc_variables(log_probs_BLK, tokens_BT)
        return alpha_BLS
    if log_probs_BLK.device.type == "cpu":
        return _native_variables(log_probs_BLK, tokens_BT, lengths_B, tgt_lengths_B)
    return _recursive_variables(log_probs_BLK, tokens_BT)


def _native_variables(log_probs_BLK: Tensor, tokens_BT: Tensor, lengths_B: Tensor, tgt_lengths_B: Tensor) -> Tensor:
    """Return the forward variables of PyTorch's loss, which the CPU computes in one operation."""
    # each token is represented by its first occurrence, so that PyTorch sees which neighbours are equal
    classes_BT = (tokens_BT[:, :, None] == tokens_BT[:, None, :]).to(torch.uint8).argmax(2) + 1
    _, alpha_BLS = torch.ops.aten._ctc_loss(
        log_probs_BLK.transpose(0, 1), classes_BT, lengths_B.tolist(), tgt_lengths_B.tolist(), 0, False
    )
    return F.pad(alpha_BLS, (0, 2 * tokens_BT.size(1) + 1 - alpha_BLS.size(2)))


def _recursive_variables(log_probs_BLK: Tensor, tokens_BT: Tensor) -> Tensor:
    """Return the forward variables by a recursion over positions, without a wait for a GPU."""
    return _recursion(_emissions(log_probs_BLK), tokens_BT, _log_sum)[:, 0].transpose(0, 1)


def _recursion(emit_BLS: Tensor, tokens_BT: Tensor, join: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the scores of the ways into each state at the next position, [L, 3, B, S].

    The ways are from the state itself, from the state before, and from the token before the blank before; their scores
    are those of the states from which they come, or -inf. Index 0 of the second dimension is the score of each state.

    Args:
        join: score of a state without its emission, [B, S], from those of the ways into it, [3, B, S].
    """
    batch, length, size = emit_BLS.shape
    leaves_BS = emit_BLS.new_full((batch, size), -torch.inf)  # 0 in tokens after which a path may skip the blank
    leaves_BS[:, 1:-2:2].masked_fill_(tokens_BT[:, 1:] != tokens_BT[:, :-1], 0.0)
    gains_L3BS = torch.stack([emit_BLS, emit_BLS, emit_BLS + leaves_BS[:, None]]).permute(2, 0, 1, 3)
    width = size + 2
    scores = emit_BLS.new_full((length, 3, batch, width), -torch.inf)
    # the scores of all states, written to the columns after 0, 1 and 2 columns of -inf
    written_L3BS = scores.as_strided((length, 3, batch, size), (3 * batch * width, batch * width + 1, width, 1))
    ways_L3BS = scores[:, :, :, :size]
    written_L3BS[0, :, :, :2] = gains_L3BS[0, :, :, :2]  # a path starts with the first blank or the first token
    for ways_3BS, written_3BS, gains_3BS in zip(
        ways_L3BS.unbind(), written_L3BS.unbind()[1:], gains_L3BS.unbind()[1:], strict=False
    ):
        torch.add(join(ways_3BS), gains_3BS, out=written_3BS)
    return ways_L3BS


def _log_sum(ways_3BS: Tensor) -> Tensor:
    """Return the log-probability of all ways."""
    same_BS, next_BS, past_BS = ways_3BS.unbind()
    return torch.logaddexp(torch.logaddexp(same_BS, next_BS), past_BS)


def _best(ways_3BS: Tensor) -> Tensor:
    """Return the log-probability of the best way."""
    return ways_3BS.amax(0)


def _best_steps(ways_L3BS: Tensor) -> Tensor:
    """Return the number of states between each state and the one before it on the best path, 0 to 2: [L, B, S]."""
    same_LBS, next_LBS, past_LBS = ways_L3BS.unbind(1)
    moves_LBS = same_LBS < torch.maximum(next_LBS, past_LBS)
    return moves_LBS.long() + (moves_LBS & (next_LBS < past_LBS))


def _followed(before_LBS: Tensor, state_B1: Tensor) -> Tensor:
    """Return the state at each position of the paths that end in given states, [B, L].

    Args:
        before_LBS: state from which the best path comes to each state, for all positions except the first.
    """
    if before_LBS.device.type == "cpu":
        return _followed_in_turn(before_LBS, state_B1)
    return _followed_by_doubling(before_LBS, state_B1)


def _followed_in_turn(before_LBS: Tensor, state_B1: Tensor) -> Tensor:
    """Return the result of `_followed` by little work for each position."""
    states = [state_B1]
    for before_BS in before_LBS.flip(0).unbind():
        state_B1 = before_BS.gather(1, state_B1)
        states.append(state_B1)
    return torch.cat(states[::-1], dim=1)


def _followed_by_doubling(before_LBS: Tensor, state_B1: Tensor) -> Tensor:
    """Return the result of `_followed` by few operations, each of which doubles the number of positions passed."""
    before_LBS, reach = before_LBS.clone(), 1
    while reach < len(before_LBS):
        before_LBS[:-reach] = before_LBS[:-reach].gather(2, before_LBS[reach:])
        reach *= 2
    states_LB = before_LBS.gather(2, state_B1.expand(len(before_LBS), -1, -1))[:, :, 0]
    return torch.cat([states_LB.t(), state_B1], dim=1)


def _emissions(log_probs_BLK: Tensor) -> Tensor:
    """Return the log-probability of the symbol of each state at each position: [B, L, S]."""
    emit_BLS = log_probs_BLK[:, :, :1].repeat(1, 1, 2 * log_probs_BLK.size(2) - 1)
    emit_BLS[:, :, 1::2] = log_probs_BLK[:, :, 1:]
    return emit_BLS


def _scores_at_end(scores_BLS: Tensor, lengths_B: Tensor, tgt_lengths_B: Tensor) -> Tensor:
    """Return the scores of the last token and of the blank after it, at the last position of each output: [B, 2]."""
    last_B1S = (lengths_B - 1)[:, None, None].expand(-1, 1, scores_BLS.size(2))
    states_B2 = torch.stack([2 * tgt_lengths_B - 1, 2 * tgt_lengths_B], dim=1)
    return scores_BLS.gather(1, last_B1S)[:, 0].gather(1, states_B2)


def _inside(lengths_B: Tensor, width: int) -> Tensor:
    """Return a mask that is True within each length: bool [B, width]."""
    return torch.arange(width, device=lengths_B.device) < lengths_B[:, None]


def _reversal(lengths_B: Tensor, width: int) -> Tensor:
    """Return the indices of the elements in reversed order, 0 beyond each length: int64 [B, width]."""
    return (lengths_B[:, None] - 1 - torch.arange(width, device=lengths_B.device)).clamp_min_(0)


def _selected(values_BLC: Tensor, rows_BL: Tensor, columns_BC: Tensor) -> Tensor:
    """Return the values at the given rows and columns of each sentence, [B, L, C]."""
    index_BLC = rows_BL[:, :, None] * values_BLC.size(2) + columns_BC[:, None]
    return values_BLC.flatten(1).gather(1, index_BLC.flatten(1)).view_as(values_BLC)
