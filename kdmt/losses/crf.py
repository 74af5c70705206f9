"""Linear-chain conditional random field over the tokens of a sentence (Sun et al. 2019, NAT-CRF).

    log P(y) = sum_t s(t, y_t) + sum_t M(y_t, y_{t+1}) - log Z

M = E1 E2^T is of low rank. Z is a sum over the sequences that are made of candidates. The candidates of a position are
the tokens with the largest emission scores there and, in training, the target token (section 4.2, "beam
approximation").

Shapes: B batch, T tokens, K candidates of a position, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor


def candidate_transitions(first_BTKR: Tensor, second_BTKR: Tensor) -> Tensor:
    """Return M between the candidates of neighbouring positions: [B, T - 1, K, K].

    Args:
        first_BTKR: rows of E1 for the candidates.
        second_BTKR: rows of E2 for the candidates.
    """
    return first_BTKR[:, :-1] @ second_BTKR[:, 1:].transpose(-1, -2)


def crf_log_partition(emissions_BTK: Tensor, transitions_BTKK: Tensor, lengths_B: Tensor) -> Tensor:
    """Return log Z over the candidates: [B].

    Args:
        emissions_BTK: scores of the candidates.
        transitions_BTKK: scores of the transition from a candidate of position t to one of position t + 1.
        lengths_B: number of tokens of each sentence, at least 1.
    """
    alpha_BK = emissions_BTK[:, 0]
    for step in range(1, emissions_BTK.size(1)):
        arrived_BK = (alpha_BK[:, :, None] + transitions_BTKK[:, step - 1]).logsumexp(1) + emissions_BTK[:, step]
        alpha_BK = torch.where((step < lengths_B)[:, None], arrived_BK, alpha_BK)
    return alpha_BK.logsumexp(1)


def crf_score(emissions_BTK: Tensor, transitions_BTKK: Tensor, choices_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the score of one sequence, given by the index of each token among the candidates: [B]."""
    inside_BT = torch.arange(choices_BT.size(1), device=choices_BT.device) < lengths_B[:, None]
    emitted_BT = emissions_BTK.gather(2, choices_BT[:, :, None])[:, :, 0]
    from_BT1K = choices_BT[:, :-1, None, None].expand(-1, -1, 1, emissions_BTK.size(2))
    rows_BTK = transitions_BTKK.gather(2, from_BT1K)[:, :, 0]
    moved_BT = rows_BTK.gather(2, choices_BT[:, 1:, None])[:, :, 0]
    return (emitted_BT * inside_BT).sum(1) + (moved_BT * inside_BT[:, 1:]).sum(1)


@torch.no_grad()
def crf_best(emissions_BTK: Tensor, transitions_BTKK: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best sequence as indices of the candidates, int64 [B, T], and its score, [B] (Viterbi algorithm)."""
    best_BK, came_from = emissions_BTK[:, 0], []
    for step in range(1, emissions_BTK.size(1)):
        best = (best_BK[:, :, None] + transitions_BTKK[:, step - 1]).max(1)
        came_from.append(best.indices)
        best_BK = torch.where((step < lengths_B)[:, None], best.values + emissions_BTK[:, step], best_BK)
    choice_B1, choices = best_BK.argmax(1, keepdim=True), []
    for step in range(emissions_BTK.size(1) - 1, -1, -1):
        choices.append(choice_B1)
        if step:
            before_B1 = came_from[step - 1].gather(1, choice_B1)
            choice_B1 = torch.where((step < lengths_B)[:, None], before_B1, choice_B1)
    return torch.cat(choices[::-1], dim=1), best_BK.amax(1)
