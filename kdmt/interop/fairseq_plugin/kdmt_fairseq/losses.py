"""The losses, from log-probabilities; the formulas are in kdmt's docs/explanation/distillation.md.

Shapes: M target tokens, V vocabulary, K teacher's best tokens, G = K + 1 groups.
"""

import math

import torch


def smoothed_cross_entropy(log_probs_MV, targets_M, epsilon):
    """Label-smoothed cross entropy and negative log-likelihood of each token, [M] each."""
    nll_M = -log_probs_MV.gather(1, targets_M[:, None])[:, 0]
    each = epsilon / (log_probs_MV.size(1) - 1)  # to each of the other tokens
    return (1.0 - epsilon - each) * nll_M - each * log_probs_MV.sum(1), nll_M


def group_divergence(log_probs_MV, ids_MK, teacher_MG, temperature):
    """T^2 KL(teacher || student) over the teacher's best tokens and the rest, both at temperature T: [M]."""
    if temperature != 1.0:
        log_probs_MV = torch.log_softmax(log_probs_MV / temperature, dim=1)
    best_MK = log_probs_MV.gather(1, ids_MK)
    rest_M1 = log_probs_MV.scatter(1, ids_MK, -math.inf).logsumexp(1, keepdim=True)
    student_MG = torch.cat([best_MK, rest_M1], dim=1)
    return temperature**2 * (teacher_MG.exp() * (teacher_MG - student_MG)).sum(1)
