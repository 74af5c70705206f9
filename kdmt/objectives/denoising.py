"""Denoising of text (Lewis et al. 2020): the student writes the whole text of sources with noise.

Shapes: B batch, M target tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdmt.config import SelfSupervised
from kdmt.corpus.batching import Batch
from kdmt.objectives.objective import Pass, Prepared, Term, cross_entropy_of, read_target


class DenoisingLoss(Term[Pass]):
    """Label-smoothed cross entropy of the text that `Extras.denoising` has with noise:

    lambda * (the terms before this one) + (1 - lambda) * this term
    """

    name = "self_supervised"
    key = "self_supervised"

    def __init__(self, settings: SelfSupervised, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing, self.share = label_smoothing, settings.supervised
        self.weights = {self.name: 1.0 - settings.supervised}

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: tokens of the text, with </s>."""
        return {self.name: _text_of(prepared).num_tgt_tokens}

    def forward(self, student: Pass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        text = Prepared.of(_text_of(prepared))
        found = read_target(student.model, text, frozenset(), student.precision)
        loss_sum, _ = cross_entropy_of(found, found.features_MD, self.label_smoothing)
        return {self.name: loss_sum}


def _text_of(prepared: Prepared) -> Batch:
    text = prepared.batch.extras.denoising
    if text is None:
        raise ValueError("a student that learns to remove noise needs batches with text that has noise")
    return text
