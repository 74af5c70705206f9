"""From the output of a CTC decoder to a sentence.

Shapes: B batch, L decoder positions, V vocabulary and the blank.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdmt.types import Hypothesis


def greedy(logits_BLV: Tensor, keep_BL: Tensor, *, blank: int) -> list[Hypothesis]:
    """The most probable token or blank at each position, merged: best path decoding (Graves et al. 2006).

    The score is the path's log-probability.
    """
    best = logits_BLV.max(-1)
    log_probs_BL = (best.values - logits_BLV.logsumexp(-1)) * keep_BL
    scores, paths, lengths = log_probs_BL.sum(1).tolist(), best.indices.tolist(), keep_BL.sum(1).tolist()
    return [
        Hypothesis(tokens=collapse(path[:length], blank), score=score)
        for path, length, score in zip(paths, lengths, scores, strict=True)
    ]


def collapse(path: Sequence[int], blank: int) -> tuple[int, ...]:
    """Repeated tokens merged, blanks dropped."""
    return tuple(
        token for place, token in enumerate(path) if token != blank and (place == 0 or token != path[place - 1])
    )
