"""Which tokens a teacher teaches, and how much more its first choice counts.

Shapes: M target tokens, C tokens of a chunk, K best tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hardest(nll_M: Tensor, rate: float) -> Tensor:
    """Selection at batch level: the share `rate` of the tokens that the student finds hardest, bool [M].

    Wang et al. 2021 (Selective Knowledge Distillation for NMT), section 4.1, with the student's cross entropy with the
    target as the criterion. int(rate * M) tokens, at least one; of equals those that come first.
    """
    count = max(1, int(rate * len(nll_M)))
    order_M = nll_M.sort(descending=True, stable=True).indices
    return torch.zeros_like(nll_M, dtype=torch.bool).index_fill_(0, order_M[:count], True)


def push(queue_N: Tensor, nll_M: Tensor, length: int) -> Tensor:
    """The newest `length` values of a queue that takes the batch's in."""
    return torch.cat([queue_N, nll_M.to(queue_N.dtype)])[-length:]


def harder_than_most(nll_M: Tensor, queue_N: Tensor, rate: float) -> Tensor:
    """Selection at global level: the tokens that are among the hardest `rate` of the queue, bool [M].

    Wang et al. 2021, section 4.2. The queue holds the batch's own values already (`push`); one batch's tokens may all
    be chosen, or none.
    """
    count = max(1, int(rate * len(queue_N)))
    return nll_M >= queue_N.kthvalue(len(queue_N) - count + 1).values


def top1_ranking(
    teacher_ids_CK: Tensor, student_ids_CK: Tensor, q_teacher_CK: Tensor, q_student_CK: Tensor, above_CKK: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Hierarchical ranking loss: the student shall order its tokens as the teacher does, the first one above all.

    Zhang et al. 2023 (Towards Understanding and Improving KD for NMT), section 4.1. With t the teacher's K best tokens
    and s the student's own:

        sum_i max(0, q(t_i) - q(t_1)) + sum_ij [p(t_i) > p(s_j)] max(0, q(s_j) - q(t_i))

    Args:
        teacher_ids_CK, student_ids_CK: t and s.
        q_teacher_CK, q_student_CK: the student's probabilities of them.
        above_CKK: bool, p(t_i) > p(s_j).

    Returns:
        The loss of each token [C], and its derivative by log q: ids [C, 2K], which may hold a token twice, and slopes.
    """
    margin_CK = (q_teacher_CK - q_teacher_CK[:, :1]).clamp_min(0.0)
    others_CKK = (q_student_CK[:, None, :] - q_teacher_CK[:, :, None]).clamp_min(0.0) * above_CKK
    wrong_CK, wrong_CKK = (each.gt(0.0).to(q_teacher_CK.dtype) for each in (margin_CK, others_CKK))
    by_teacher_CK = wrong_CK - wrong_CKK.sum(2)
    by_teacher_CK[:, 0] -= wrong_CK.sum(1)
    slopes_CK2 = torch.cat([by_teacher_CK * q_teacher_CK, wrong_CKK.sum(1) * q_student_CK], dim=1)
    value_C = margin_CK.sum(1) + others_CKK.sum((1, 2))
    return value_C, torch.cat([teacher_ids_CK, student_ids_CK], dim=1), slopes_CK2
