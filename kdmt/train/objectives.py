"""Objectives: modules that hold the models, run them and call the losses. They are what a parallel wrapper wraps."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from kdmt.losses.cross_entropy import projected_cross_entropy
from kdmt.models.transformer import Transformer
from kdmt.types import Batch, LossTerm, LossTerms


class Objective(Protocol):
    """An `nn.Module` whose forward pass gives named sums, each with the count it is to be divided by.

    Counts are known from the batch alone: the loop adds them over all micro-batches of an update before the first
    forward pass and divides each term once.
    """

    model: Transformer

    def counts(self, batch: Batch) -> dict[str, int]: ...

    def __call__(self, batch: Batch) -> LossTerms: ...


class CrossEntropyObjective(nn.Module):
    """Label-smoothed cross entropy with the target tokens; `nll` is reported beside it and not trained on."""

    def __init__(self, model: Transformer, *, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": batch.num_tgt_tokens, "nll": batch.num_tgt_tokens}

    def forward(self, batch: Batch) -> LossTerms:
        prev_tokens_BT, tgt_tokens_BT = _targets(batch)
        features_BTD = self.model.decode(prev_tokens_BT, self.model.encode(batch.src_tokens_BS))
        real_BT = tgt_tokens_BT.ne(self.model.pad)
        loss_sum, nll_sum = projected_cross_entropy(
            features_BTD[real_BT], self.model.output_weight_VD, tgt_tokens_BT[real_BT], epsilon=self.label_smoothing
        )
        return {
            "loss": LossTerm(sum=loss_sum, count=batch.num_tgt_tokens),
            "nll": LossTerm(sum=nll_sum, count=batch.num_tgt_tokens, weight=0.0),
        }


def _targets(batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.prev_tokens_BT is None or batch.tgt_tokens_BT is None:
        raise ValueError("an objective needs a batch with targets")
    return batch.prev_tokens_BT, batch.tgt_tokens_BT
