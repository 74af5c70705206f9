"""Decoding of students that write all positions at once.

Shapes: B batch, L decoder positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from kdmt.config import Decode
from kdmt.corpus.batching import pad_sentences
from kdmt.decode.engine import decode_in_batches
from kdmt.models.nonautoregressive import NATransformer
from kdmt.types import Hypothesis


class NATEngine:
    """A non-autoregressive model in PyTorch; it is moved to `device` and runs in evaluation mode while it decodes."""

    def __init__(self, model: NATransformer, *, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device)
        self.device = torch.device(device)

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.decode`."""

        def write(batch: list[int]) -> list[list[Hypothesis]]:
            src_tokens_BS = pad_sentences([sources[place] for place in batch]).to(self.device)
            return [[hypothesis] for hypothesis in ctc_greedy(self.model, src_tokens_BS)]

        return decode_in_batches(self.model, sources, settings, write, progress)


def ctc_greedy(model: NATransformer, src_tokens_BS: Tensor) -> list[Hypothesis]:
    """The most probable token or blank at each position, merged: best path decoding (Graves et al. 2006).

    The score is the path's log-probability.
    """
    x_BLD, keep_BL = model.upsample(src_tokens_BS)
    features_BLD = model.decode_all(x_BLD, keep_BL, model.encode(src_tokens_BS))
    logits_BLV = features_BLD @ model.output_weight_VD.t()
    best = logits_BLV.max(-1)
    log_probs_BL = (best.values - logits_BLV.logsumexp(-1)) * keep_BL
    scores, paths, lengths = log_probs_BL.sum(1).tolist(), best.indices.tolist(), keep_BL.sum(1).tolist()
    return [
        Hypothesis(tokens=collapse(path[:length], model.blank), score=score)
        for path, length, score in zip(paths, lengths, scores, strict=True)
    ]


def collapse(path: Sequence[int], blank: int) -> tuple[int, ...]:
    """Repeated tokens merged, blanks dropped."""
    return tuple(
        token for place, token in enumerate(path) if token != blank and (place == 0 or token != path[place - 1])
    )
