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
from kdmt.decode.ctc import greedy
from kdmt.decode.dag import lookahead_paths
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
            return [[hypothesis] for hypothesis in _write(self.model, src_tokens_BS)]

        return decode_in_batches(self.model, sources, settings, write, progress)


def _write(model: NATransformer, src_tokens_BS: Tensor) -> list[Hypothesis]:
    """A translation of each source."""
    ctc = model.nat.family == "ctc"
    x_BLD, keep_BL = model.upsample(src_tokens_BS) if ctc else model.vertices(src_tokens_BS)
    features_BLD = model.decode_all(x_BLD, keep_BL, model.encode(src_tokens_BS))
    logits_BLV = features_BLD @ model.output_weight_VD.t()
    if ctc:
        return greedy(logits_BLV, keep_BL, blank=model.blank)
    best = logits_BLV.max(-1)
    paths, scores = lookahead_paths(
        best.values - logits_BLV.logsumexp(-1), model.link(features_BLD, keep_BL), keep_BL.sum(1)
    )
    tokens = best.indices.tolist()
    return [
        Hypothesis(tokens=tuple(row[vertex] for vertex in path[1:-1]), score=score)
        for row, path, score in zip(tokens, paths, scores, strict=True)
    ]
