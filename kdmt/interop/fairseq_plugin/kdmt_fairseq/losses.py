"""Losses computed from log-probabilities. docs/explanation/distillation.md of kdmt contains the formulas.

Shapes: M target tokens, V vocabulary, K best tokens of the teacher, G = K + 1 groups.
"""

import math

import torch


def smoothed_cross_entropy(log_probs_MV, targets_M, epsilon):
    """Return the label-smoothed cross entropy and the negative log-likelihood of each token, [M] each."""
    nll_M = -log_probs_MV.gather(1, targets_M[:, None])[:, 0]
    each = epsilon / (log_probs_MV.size(1) - 1)  # probability mass for each of the other tokens
    return (1.0 - epsilon - each) * nll_M - each * log_probs_MV.sum(1), nll_M


def group_divergence(log_probs_MV, ids_MK, teacher_MG, temperature):
    """Return T^2 KL(teacher || student) for each token, [M], with both distributions at temperature T.

    The distributions are over the teacher's K best tokens and the group of all other tokens.
    """
    if temperature != 1.0:
        log_probs_MV = torch.log_softmax(log_probs_MV / temperature, dim=1)
    best_MK = log_probs_MV.gather(1, ids_MK)
    rest_M1 = log_probs_MV.scatter(1, ids_MK, -math.inf).logsumexp(1, keepdim=True)
    student_MG = torch.cat([best_MK, rest_M1], dim=1)
    return temperature**2 * (teacher_MG.exp() * (teacher_MG - student_MG)).sum(1)
