"""Objectives of students that fill in the target's own positions: `nat` and `cmlm`.

Positions are those of the target with its </s>, so that whatever compares tokens (word-level distillation, a knowledge
cache, weights of pairs) is the autoregressive students' own.

Shapes: B batch, T target length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from kdmt.models.nonautoregressive import NATransformer
from kdmt.train.distillation import DistillationObjective, Pass
from kdmt.train.glancing import drawn
from kdmt.types import EOS, PAD, UNK, Batch, Knowledge, LossTerm, LossTerms


class PositionsObjective(DistillationObjective):
    """Each position's token by the lessons of `DistillationObjective`, and the length.

    Of `cmlm` a number of words between 1 and all, drawn evenly, is hidden, and those alone are asked for (Ghazvininejad
    et al. 2019, section 2.2); in evaluation mode all of them are. `length` is the cross entropy of the length.

    Args:
        length_weight: of `length`.
        others: arguments of `DistillationObjective`.
    """

    model: NATransformer

    def __init__(self, model: NATransformer, *, label_smoothing: float, length_weight: float, **others: Any) -> None:
        super().__init__(model, label_smoothing=label_smoothing, **others)
        self.length_weight = length_weight
        self.terms = (*self.terms, "length")

    def prepare(self, batch: Batch) -> Batch:
        """See `Objective.prepare`."""
        batch = super().prepare(batch)
        return hide_some(batch) if self.model.nat.family == "cmlm" else batch

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`."""
        return {**super().counts(batch), "length": len(batch.src_tokens_BS)}

    def forward(self, batch: Batch) -> LossTerms:
        """See `Objective`."""
        if not self.training and self.model.nat.family == "cmlm":
            batch = hide_all(batch)
        return super().forward(batch)

    def learn(self, student: Pass, teachers: Sequence[Pass], batch: Batch) -> LossTerms:
        """See `DistillationObjective.learn`."""
        assert student.encoded is not None
        assert batch.prev_tokens_BT is not None
        lengths_B = batch.prev_tokens_BT.ne(PAD).sum(1)
        nll_sum = self.model.lengths.nll(student.encoded, lengths_B).sum()
        length = LossTerm(nll_sum, len(lengths_B), self.length_weight)
        return {**super().learn(student, teachers, batch), "length": length}


def hide_some(batch: Batch) -> Batch:
    """The batch with a number of each target's words hidden that is drawn evenly from 1 to all of them.

    Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps.
    """
    assert batch.tgt_tokens_BT is not None
    words_BT = batch.tgt_tokens_BT.ne(PAD) & batch.tgt_tokens_BT.ne(EOS)
    numbers_B = words_BT.sum(1)
    counts_B = (torch.rand(len(numbers_B)).to(numbers_B.device) * numbers_B).long() + 1
    return _hide(batch, drawn(counts_B.minimum(numbers_B), words_BT))


def hide_all(batch: Batch) -> Batch:
    """The batch with all words of its targets hidden."""
    assert batch.tgt_tokens_BT is not None
    return _hide(batch, batch.tgt_tokens_BT.ne(PAD) & batch.tgt_tokens_BT.ne(EOS))


def _hide(batch: Batch, hidden_BT: torch.Tensor) -> Batch:
    """What is hidden is <unk> to the decoder, and all that the loss is taken of."""
    assert batch.tgt_tokens_BT is not None
    asked_BT = batch.tgt_tokens_BT.masked_fill(~hidden_BT, PAD)
    knowledge, weighted_tokens = batch.knowledge, batch.weighted_tokens
    if knowledge is not None:
        asked_M = hidden_BT[batch.tgt_tokens_BT.ne(PAD)]
        knowledge = Knowledge(knowledge.ids_MK[asked_M], knowledge.log_probs_MG[asked_M])
    if batch.weight_B is not None:
        weighted_tokens = float((hidden_BT.sum(1) * batch.weight_B).sum())
    return replace(
        batch,
        seen_BT=batch.tgt_tokens_BT.masked_fill(hidden_BT, UNK),
        tgt_tokens_BT=asked_BT,
        num_tgt_tokens=int(hidden_BT.sum()),
        weighted_tokens=weighted_tokens,
        knowledge=knowledge,
    )
