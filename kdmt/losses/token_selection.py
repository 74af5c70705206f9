"""Selection of the tokens for which a student learns from its teacher, and a ranking loss for the most probable tokens.

Shapes: M target tokens, C tokens of a chunk, K best tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hardest(nll_M: Tensor, rate: float) -> Tensor:
    """Return the share `rate` of the tokens of a batch with the highest loss (batch-level selection), bool [M].

    Wang et al. 2021 (Selective Knowledge Distillation for NMT), section 4.1, with the student's cross entropy with the
    target as the criterion. int(rate * M) tokens are selected, at least one; of tokens with equal losses, those that
    come first.
    """
    count = max(1, int(rate * len(nll_M)))
    order_M = nll_M.sort(descending=True, stable=True).indices
    return torch.zeros_like(nll_M, dtype=torch.bool).index_fill_(0, order_M[:count], True)


def push(queue_N: Tensor, nll_M: Tensor, length: int) -> Tensor:
    """Append the values of a batch to a queue and return the newest `length` values."""
    return torch.cat([queue_N, nll_M.to(queue_N.dtype)])[-length:]


def harder_than_most(nll_M: Tensor, queue_N: Tensor, rate: float) -> Tensor:
    """Return which tokens belong to the share `rate` of the queue with the highest loss (global selection), bool [M].

    Wang et al. 2021, section 4.2. The queue already contains the values of the batch (`push`). All tokens of a batch
    may be selected, or none.
    """
    count = max(1, int(rate * len(queue_N)))
    return nll_M >= queue_N.kthvalue(len(queue_N) - count + 1).values


def top1_ranking(
    teacher_ids_CK: Tensor, student_ids_CK: Tensor, q_teacher_CK: Tensor, q_student_CK: Tensor, above_CKK: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hierarchical ranking loss: the student learns the order of the teacher's most probable tokens.

    Zhang et al. 2023 (Towards Understanding and Improving KD for NMT), section 4.1. Let t be the K best tokens of the
    teacher and s the K best tokens of the student. The first token of the teacher has a term of its own:

        sum_i max(0, q(t_i) - q(t_1)) + sum_ij [p(t_i) > p(s_j)] max(0, q(s_j) - q(t_i))

    Args:
        teacher_ids_CK, student_ids_CK: ids of t and s.
        q_teacher_CK, q_student_CK: the student's probabilities of t and s.
        above_CKK: bool, p(t_i) > p(s_j).

    Returns:
        The loss of each token, [C], and its derivative with respect to log q as ids [C, 2K], which may contain a token
        twice, and slopes [C, 2K].
    """
    margin_CK = (q_teacher_CK - q_teacher_CK[:, :1]).clamp_min(0.0)
    others_CKK = (q_student_CK[:, None, :] - q_teacher_CK[:, :, None]).clamp_min(0.0) * above_CKK
    wrong_CK, wrong_CKK = (each.gt(0.0).to(q_teacher_CK.dtype) for each in (margin_CK, others_CKK))
    by_teacher_CK = wrong_CK - wrong_CKK.sum(2)
    by_teacher_CK[:, 0] -= wrong_CK.sum(1)
    slopes_CK2 = torch.cat([by_teacher_CK * q_teacher_CK, wrong_CKK.sum(1) * q_student_CK], dim=1)
    value_C = margin_CK.sum(1) + others_CKK.sum((1, 2))
    return value_C, torch.cat([teacher_ids_CK, student_ids_CK], dim=1), slopes_CK2
