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
    """

    def __init__(self, settings: GuidedAlignmentSettings, *, model: Transformer) -> None:
        super().__init__()
        layer = model.config.decoder_layers - 1 if settings.layer is None else settings.layer
        self.point, self.head = ("cross", layer), settings.head
        # links count the tokens of the data: the map has a row more if the decoder begins with a language token, and
        # other columns if the model puts a token before a source or does not encode the first one
        self.first_row = int(model.config.begins_with_token)
        self.more_columns = model.config.more_encoder_positions
        self.trace_points = frozenset({self.point})
        self.weights = {"alignment": settings.weight}

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: target tokens with a link, times the weights of their pairs."""
        return {"alignment": _alignment(prepared).num_tokens}

    def forward(self, student: TokenPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        alignment = _alignment(prepared)
        attention_BTS = student.trace.found[self.point][:, self.head, self.first_row :]
        place_3L = alignment.place_3L
        if self.more_columns:
            place_3L = torch.cat([place_3L[:2], place_3L[2:] + self.more_columns])
        return {"alignment": alignment_nll(attention_BTS, place_3L, alignment.weight_L)}


def _alignment(prepared: Prepared) -> BatchLinks:
    found = prepared.batch.extras.alignment
    if found is None:
        raise ValueError("guided alignment needs batches with the alignment of their pairs")
    return found
