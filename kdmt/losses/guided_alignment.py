"""Guided alignment: cross entropy of attention with the word alignment of a sentence pair (Chen et al. 2016).

Shapes: B batch, S source length, T target length, L links between a target and a source token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def alignment_nll(attention_BTS: Tensor, place_3L: Tensor, weight_L: Tensor) -> Tensor:
    """Return the cross entropy of attention with an alignment, summed over target tokens (Garg et al. 2019, eq. 1):

        - sum_t sum_s G_ts log A_ts

    where A is the attention of one head and G has the links of target token t, each with the weight 1 / (number of
    links of t), so that the target is a distribution over the source. Target tokens without a link add nothing. Marian
    adds 1e-6 to A.

    Args:
        attention_BTS: weights that sum to 1 over the source.
        place_3L: int64, sentence, target and source position of each link.
        weight_L: G at each link, times the weight of the sentence pair.
    """
    of_sentence_L, target_L, source_L = place_3L
    linked_L = attention_BTS[of_sentence_L, target_L, source_L]
    return -(linked_L.clamp_min(torch.finfo(linked_L.dtype).tiny).log() * weight_L.to(linked_L.dtype)).sum()
