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
from kdmt.decode.mask_predict import mask_predict
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import EncoderOutput
from kdmt.types import EOS, Hypothesis


class NATEngine:
    """A non-autoregressive model in PyTorch; it is moved to `device` and runs in evaluation mode while it decodes.

    Args:
        length_beam: lengths that are tried, of families that tell the length.
        iterations: passes of the decoder, of `cmlm`.
    """

    def __init__(
        self,
        model: NATransformer,
        *,
        device: torch.device | str = "cpu",
        length_beam: int = 5,
        iterations: int = 10,
    ) -> None:
        self.model = model.to(device)
        self.device = torch.device(device)
        self.length_beam, self.iterations = length_beam, iterations

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.decode`."""

        def write(batch: list[int]) -> list[list[Hypothesis]]:
            src_tokens_BS = pad_sentences([sources[place] for place in batch]).to(self.device)
            found = _write(self.model, src_tokens_BS, length_beam=self.length_beam, iterations=self.iterations)
            return [[hypothesis] for hypothesis in found]

        return decode_in_batches(self.model, sources, settings, write, progress)


def _write(model: NATransformer, src_tokens_BS: Tensor, *, length_beam: int, iterations: int) -> list[Hypothesis]:
    """A translation of each source."""
    encoded = model.encode(src_tokens_BS)
    if model.nat.family in ("nat", "cmlm"):
        return _fill(model, src_tokens_BS, encoded, length_beam, iterations if model.nat.family == "cmlm" else 1)
    ctc = model.nat.family == "ctc"
    x_BLD, keep_BL = model.upsample(src_tokens_BS) if ctc else model.vertices(src_tokens_BS)
    features_BLD = model.decode_all(x_BLD, keep_BL, encoded)
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


def _fill(
    model: NATransformer, src_tokens_BS: Tensor, encoded: EncoderOutput, length_beam: int, iterations: int
) -> list[Hypothesis]:
    """Of candidates of the most probable lengths the one whose words have the best mean log-probability."""
    lengths_BK = model.lengths.best(encoded, length_beam, limit=model.config.max_target_positions)
    rows_N = torch.arange(len(src_tokens_BS), device=src_tokens_BS.device).repeat_interleave(length_beam)
    src_tokens_NS = src_tokens_BS[rows_N]
    states = EncoderOutput(encoded.states_BSD[rows_N], encoded.keep_BS[rows_N])

    def predict(tokens_NT: Tensor) -> tuple[Tensor, Tensor]:
        logits_NTV = model.fill(src_tokens_NS, tokens_NT, states) @ model.output_weight_VD.t()
        best = logits_NTV.max(-1)
        return best.indices, best.values - logits_NTV.logsumexp(-1)

    lengths_N = lengths_BK.flatten()
    tokens_NT, log_probs_NT = mask_predict(predict, lengths_N, iterations=iterations)
    scores_BK = (log_probs_NT.sum(1) / (lengths_N - 1)).view_as(lengths_BK)
    chosen_B = scores_BK.argmax(1) + torch.arange(0, len(lengths_N), length_beam, device=lengths_N.device)
    found = zip(tokens_NT[chosen_B].tolist(), lengths_N[chosen_B].tolist(), scores_BK.amax(1).tolist(), strict=True)
    return [Hypothesis(tokens=_words(tokens[: length - 1]), score=score) for tokens, length, score in found]


def _words(tokens: list[int]) -> tuple[int, ...]:
    """Up to an </s> that was written among them."""
    return tuple(tokens[: tokens.index(EOS)] if EOS in tokens else tokens)
