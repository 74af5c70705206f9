"""Objectives of students that write all positions at once. The losses' formulas are in `kdmt.losses`.

Shapes: B batch, L decoder positions, T target tokens without </s>, M real decoder positions, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdmt.losses.ctc import ctc_log_likelihood
from kdmt.losses.gathered import gathered_log_probs
from kdmt.models.nonautoregressive import NATransformer
from kdmt.train.objectives import Objective
from kdmt.types import EOS, PAD, Batch, LossTerm, LossTerms


@dataclass(frozen=True)
class Words:
    """Targets without their </s>."""

    tokens_BT: Tensor  # int64, padded
    lengths_B: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Words:
        if batch.tgt_tokens_BT is None:
            raise ValueError("an objective needs a batch with targets")
        tokens_BT = batch.tgt_tokens_BT[:, :-1]  # the longest one's </s>, or padding
        tokens_BT = tokens_BT.masked_fill(tokens_BT.eq(EOS), PAD)
        return cls(tokens_BT, tokens_BT.ne(PAD).sum(1))


class CTCObjective(Objective):
    """The negative log-likelihood of the target over all its alignments with the upsampled source.

    A target that is too long for any alignment is left out and counted: `impossible` is the share of such sentences.
    """

    terms: tuple[str, ...] = ("loss", "nll", "impossible")

    def __init__(self, model: NATransformer) -> None:
        super().__init__()
        self.model: NATransformer = model

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`: target tokens without </s>, of the sentences that have an alignment."""
        words = Words.of(batch)
        tokens = float((words.lengths_B * self._fits(batch, words)).sum())
        return {"loss": tokens, "nll": tokens, "impossible": len(batch.src_tokens_BS)}

    def _fits(self, batch: Batch, words: Words) -> Tensor:
        """Which targets have an alignment, bool [B]: two equal tokens in a row need a blank in between."""
        same_BT = words.tokens_BT[:, 1:].eq(words.tokens_BT[:, :-1]) & words.tokens_BT[:, 1:].ne(PAD)
        positions_B = self.model.nat.upsample * batch.src_tokens_BS.ne(PAD).sum(1)
        return words.lengths_B.gt(0) & (words.lengths_B + same_BT.sum(1)).le(positions_B)

    def forward(self, batch: Batch) -> LossTerms:
        """See `Objective`."""
        words = Words.of(batch)
        fits_B, counts = self._fits(batch, words), self.counts(batch)
        log_probs_B = self._log_likelihood(batch, words)
        nll_sum = -torch.where(fits_B, log_probs_B, 0.0).sum()
        return {
            "loss": LossTerm(nll_sum, counts["loss"]),
            "nll": LossTerm(nll_sum.detach(), counts["nll"], weight=0.0),
            "impossible": LossTerm((~fits_B).sum(), counts["impossible"], weight=0.0),
        }

    def _log_likelihood(self, batch: Batch, words: Words) -> Tensor:
        """log P(target) of each sentence: [B]."""
        model = self.model
        with self.autocast(batch):
            x_BLD, keep_BL = model.upsample(batch.src_tokens_BS)
            features_BLD = model.decode_all(x_BLD, keep_BL, model.encode(batch.src_tokens_BS))
        asked_BT = torch.cat([torch.full_like(words.tokens_BT[:, :1], model.blank), words.tokens_BT], dim=1)
        ids_BLT = asked_BT[:, None].expand(-1, keep_BL.size(1), -1)
        found_MT = gathered_log_probs(
            features_BLD[keep_BL], model.output_weight_VD, ids_BLT[keep_BL], product_type=self.product_type
        )
        log_probs_BLT = found_MT.new_zeros(ids_BLT.shape).masked_scatter(keep_BL[:, :, None], found_MT)
        return ctc_log_likelihood(
            log_probs_BLT[:, :, 0],
            log_probs_BLT[:, :, 1:],
            words.tokens_BT,
            lengths_B=keep_BL.sum(1),
            tgt_lengths_B=words.lengths_B.clamp_min(1),
        )
