"""Objectives of students that fill in the target's own positions: `nat` and `cmlm`.

Positions are those of the target with its </s>, so that whatever compares tokens (word-level distillation, a knowledge
cache, weights of pairs) is the autoregressive students' own.

Shapes: B batch, T target length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from kdmt.losses.edits import levenshtein_distance
from kdmt.losses.gathered import best_tokens
from kdmt.models.nonautoregressive import NATransformer
from kdmt.train.distillation import DistillationObjective, Pass
from kdmt.train.glancing import drawn, glanced
from kdmt.train.schedule import piecewise_linear
from kdmt.types import EOS, PAD, UNK, Batch, Knowledge, LossTerm, LossTerms

Distance = Literal["hamming", "levenshtein"]


class PositionsObjective(DistillationObjective):
    """Each word by the lessons of `DistillationObjective`, and the length.

    A decoder of `nat` sees nothing of the target but its </s>. With glancing (Qian et al. 2021) it writes once, is then
    shown as many words as it got wrong times a ratio, and is asked for the others; the sum over these is divided by the
    number of all words. Of `cmlm` a number of words between 1 and all, drawn evenly, is hidden, and those alone are
    asked for (Ghazvininejad et al. 2019, section 2.2). In evaluation mode all words are hidden. `length` is the cross
    entropy of the length.

    Args:
        length_weight: of `length`.
        glancing: of `nat`, (update, ratio) points, linear in between; None for one pass.
        distance: how wrong the first pass is, by position or by edits.
        others: arguments of `DistillationObjective`.
    """

    model: NATransformer

    def __init__(
        self,
        model: NATransformer,
        *,
        label_smoothing: float,
        length_weight: float,
        glancing: Sequence[tuple[int, float]] | None = None,
        distance: Distance = "hamming",
        **others: Any,
    ) -> None:
        super().__init__(model, label_smoothing=label_smoothing, **others)
        self.length_weight, self.glancing, self.distance = length_weight, glancing, distance
        self.ratio = 0.0 if glancing is None else glancing[0][1]
        self.terms = (*self.terms, "length")

    def before_update(self, update: int) -> None:
        """See `Objective.before_update`."""
        super().before_update(update)
        if self.glancing is not None:
            self.ratio = piecewise_linear(update, self.glancing)

    def prepare(self, batch: Batch) -> Batch:
        """See `Objective.prepare`."""
        batch = super().prepare(batch)
        return hide_some(batch) if self.model.nat.family == "cmlm" else hide_all(batch)

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`."""
        return {**super().counts(batch), "length": len(batch.src_tokens_BS)}

    def forward(self, batch: Batch) -> LossTerms:
        """See `Objective`."""
        if not self.training:
            batch = hide_all(batch)
        elif self.glancing is not None:
            batch = self._glance(batch)
        return super().forward(batch)

    def learn(self, student: Pass, teachers: Sequence[Pass], batch: Batch) -> LossTerms:
        """See `DistillationObjective.learn`."""
        assert student.encoded is not None
        assert batch.prev_tokens_BT is not None
        lengths_B = batch.prev_tokens_BT.ne(PAD).sum(1)
        nll_sum = self.model.lengths.nll(student.encoded, lengths_B).sum()
        length = LossTerm(nll_sum, len(lengths_B), self.length_weight)
        return {**super().learn(student, teachers, batch), "length": length}

    @torch.no_grad()
    def _glance(self, batch: Batch) -> Batch:
        """The batch with some of its words shown, where the first pass got others wrong."""
        assert batch.tgt_tokens_BT is not None
        words_BT, count = batch.tgt_tokens_BT.ne(PAD), batch.target_count
        weight_VD = self.model.output_weight_VD
        best_M = best_tokens(self.features(self.model, batch), weight_VD, product_type=self.product_type)
        written_BT = batch.tgt_tokens_BT.masked_scatter(words_BT, best_M)
        shown_BT = glanced(self._distance(written_BT, batch.tgt_tokens_BT), words_BT, ratio=self.ratio)
        return replace(_hide(batch, words_BT & ~shown_BT), weighted_tokens=count)

    def _distance(self, written_BT: Tensor, words_BT: Tensor) -> Tensor:
        if self.distance == "hamming":
            return written_BT.ne(words_BT).sum(1)
        lengths_B = words_BT.ne(PAD).sum(1)
        return levenshtein_distance(written_BT, words_BT, hyp_lengths_B=lengths_B, ref_lengths_B=lengths_B)


def hide_some(batch: Batch) -> Batch:
    """The batch with a number of each target's words hidden that is drawn evenly from 1 to all of them.

    Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps.
    """
    words_BT = _words(batch)
    numbers_B = words_BT.sum(1)
    counts_B = (torch.rand(len(numbers_B)).to(numbers_B.device) * numbers_B).long() + 1
    return _hide(batch, drawn(counts_B.minimum(numbers_B), words_BT))


def hide_all(batch: Batch) -> Batch:
    """The batch with all words of its targets hidden."""
    return _hide(batch, _words(batch))


def _words(batch: Batch) -> Tensor:
    """Where the target has words: bool [B, T]."""
    tokens_BT = _whole(batch)
    return tokens_BT.ne(PAD) & tokens_BT.ne(EOS)


def _whole(batch: Batch) -> Tensor:
    """The target, whatever is hidden of it."""
    assert batch.tgt_tokens_BT is not None
    if batch.seen_BT is None:
        return batch.tgt_tokens_BT
    return torch.where(batch.tgt_tokens_BT.ne(PAD), batch.tgt_tokens_BT, batch.seen_BT)


def _hide(batch: Batch, hidden_BT: Tensor) -> Batch:
    """What is hidden is <unk> to the decoder, and all that the loss is taken of."""
    assert batch.tgt_tokens_BT is not None
    whole_BT, knowledge, weighted_tokens = _whole(batch), batch.knowledge, batch.weighted_tokens
    if knowledge is not None:
        asked_M = hidden_BT[batch.tgt_tokens_BT.ne(PAD)]
        knowledge = Knowledge(knowledge.ids_MK[asked_M], knowledge.log_probs_MG[asked_M])
    if batch.weight_B is not None:
        weighted_tokens = float((hidden_BT.sum(1) * batch.weight_B).sum())
    return replace(
        batch,
        seen_BT=whole_BT.masked_fill(hidden_BT, UNK),
        tgt_tokens_BT=whole_BT.masked_fill(~hidden_BT, PAD),
        num_tgt_tokens=int(hidden_BT.sum()),
        weighted_tokens=weighted_tokens,
        knowledge=knowledge,
    )
