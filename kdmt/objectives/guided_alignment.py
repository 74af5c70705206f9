"""Term that teaches one head of the attention to the source the word alignment of the training pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdmt.config import GuidedAlignment as GuidedAlignmentSettings
from kdmt.corpus.batching import BatchLinks
from kdmt.losses.guided_alignment import alignment_nll
from kdmt.models.transformer import Transformer
from kdmt.objectives.objective import Pass, Prepared, Term, TokenPass


class GuidedAlignment(Term[TokenPass]):
    """Cross entropy of one head of a decoder layer with the alignment, `alignment`.

    Only this layer computes its attention weights in addition to its output; all layers have fused attention.

    Links count the tokens of the data-bin. A decoder that begins with the first token of the source
    (`target_from_source`) reads it before the target, and the encoder does not read it.
    """

    def __init__(self, settings: GuidedAlignmentSettings, *, model: Transformer) -> None:
        super().__init__()
        layer = model.config.decoder_layers - 1 if settings.layer is None else settings.layer
        self.point, self.head = ("cross", layer), settings.head
        self.trace_points = frozenset({self.point})
        self.takes_first_token = model.config.target_from_source
        self.weights = {"alignment": settings.weight}

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: target tokens with a link, times the weights of their pairs."""
        return {"alignment": _alignment(prepared).num_tokens}

    def forward(self, student: TokenPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        alignment = _alignment(prepared)
        attention_BTS, place_3L = student.trace.found[self.point][:, self.head], alignment.place_3L
        if self.takes_first_token:
            of_sentence_L, target_L, source_L = place_3L
            attention_BTS, place_3L = attention_BTS[:, 1:], torch.stack([of_sentence_L, target_L, source_L - 1])
        return {"alignment": alignment_nll(attention_BTS, place_3L, alignment.weight_L)}


def _alignment(prepared: Prepared) -> BatchLinks:
    found = prepared.batch.extras.alignment
    if found is None:
        raise ValueError("guided alignment needs batches with the alignment of their pairs")
    return found
