"""Losses inside the network: distances between the hidden states and attention maps of student and teacher.

Shapes: B batch, L length (of either side), M real tokens, D model width, H heads, T query length, S key length.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.choices import AttentionDistance, HiddenDistance


def hidden_distance(student_MD: Tensor, teacher_MD: Tensor, kind: HiddenDistance) -> Tensor:
    """Return the sum over tokens of the distance between two hidden states of the same width.

    mse     mean_d (s_d - t_d) ** 2                      (Jiao et al. 2020, TinyBERT, equation 8)
    cosine  1 - s.t / (|s| |t|)                          (Sanh et al. 2019, DistilBERT)
    pkd     sum_d (s_d / |s| - t_d / |t|) ** 2           (Sun et al. 2019, Patient KD, equation 7)

    The last one is twice the cosine distance, so that the two differ by a constant factor only.
    """
    if kind == "mse":
        return (student_MD - teacher_MD).square().mean(-1).sum()
    if kind == "cosine":
        return (1.0 - F.cosine_similarity(student_MD, teacher_MD, dim=-1)).sum()
    return (F.normalize(student_MD, dim=-1) - F.normalize(teacher_MD, dim=-1)).square().sum()


def attention_distance(student_BHTS: Tensor, teacher_BHTS: Tensor, keep_BT: Tensor, kind: AttentionDistance) -> Tensor:
    """Return the distance between attention maps, summed over real queries and averaged over heads.

    Let a and b be the weights of student and teacher over the keys:

    kl             sum_s b_s (log b_s - log a_s)         (Wang et al. 2020, MiniLM, equation 7)
    squared_error  sum_s (a_s - b_s) ** 2

    Args:
        student_BHTS, teacher_BHTS: weights that sum to 1 over the keys, 0 on masked keys. Both have the same number of
            heads (`match_heads`).
        keep_BT: bool, True on real queries.
    """
    if kind == "kl":
        tiny = torch.finfo(student_BHTS.dtype).tiny
        logs = [each.clamp_min(tiny).log() for each in (teacher_BHTS, student_BHTS)]
        each_BHT = (teacher_BHTS * (logs[0] - logs[1])).sum(-1)
    else:
        each_BHT = (student_BHTS - teacher_BHTS).square().sum(-1)
    return (each_BHT.mean(1) * keep_BT).sum()


def match_heads(student_BHTS: Tensor, teacher_BHTS: Tensor, head_map: list[int] | None) -> tuple[Tensor, Tensor]:
    """Return both maps with the same number of heads.

    With `head_map`, which names a head of the teacher for each head of the student, the teacher's heads are selected.
    Without it, the maps are unchanged if both have the same number of heads; otherwise each map is averaged over its
    heads.
    """
    if head_map is not None:
        # slices, since the host would wait for the copy of an index to a GPU
        return student_BHTS, torch.cat([teacher_BHTS[:, head : head + 1] for head in head_map], dim=1)
    if student_BHTS.size(1) == teacher_BHTS.size(1):
        return student_BHTS, teacher_BHTS
    return student_BHTS.mean(1, keepdim=True), teacher_BHTS.mean(1, keepdim=True)


def mix_heads(student_BHTS: Tensor, logits_GH: Tensor) -> Tensor:
    """Return a mean of the student's attention maps for each of G heads of the teacher: [B, G, T, S].

        mixed_g = sum_h softmax(logits_g)_h a_h

    The heads of all layers are mapped at once, as in Align-to-Distill (Jin et al. 2024). Each mean is a distribution
    over the keys again, because its weights are a softmax. The authors' program has a 1x1 convolution with a bias
    instead, and a softmax over all queries and keys of its output and of the teacher's map.
    """
    return torch.einsum("gh,bhts->bgts", logits_GH.to(student_BHTS.dtype).softmax(-1), student_BHTS)
