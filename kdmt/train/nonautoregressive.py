"""Objectives of students that write all positions at once. The losses' formulas are in `kdmt.losses`.

Shapes: B batch, L decoder positions, T target tokens without </s>, M real decoder positions, D model width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdmt.losses.ctc import ctc_best_alignment, ctc_log_likelihood
from kdmt.losses.dag import dag_log_likelihood
from kdmt.losses.gathered import best_tokens, gathered_log_probs
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import EncoderOutput
from kdmt.train.glancing import glanced
from kdmt.train.objectives import Objective
from kdmt.train.schedule import piecewise_linear
from kdmt.types import BOS, EOS, PAD, Batch, LossTerm, LossTerms


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


class AlignedObjective(Objective):
    """The negative log-likelihood of the target over all its alignments with a longer decoder output.

    A target that has none is left out and counted: `impossible` is the share of such sentences.
    """

    terms: tuple[str, ...] = ("loss", "nll", "impossible")

    def __init__(self, model: NATransformer) -> None:
        super().__init__()
        self.model: NATransformer = model

    @abstractmethod
    def fits(self, words: Words, positions_B: Tensor) -> Tensor:
        """Which targets have an alignment with so many positions: bool [B]."""

    @abstractmethod
    def log_likelihood(self, batch: Batch, words: Words) -> Tensor:
        """log P(target) of each sentence: [B]."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`: target tokens without </s>, of the sentences that have an alignment."""
        words = Words.of(batch)
        return self._counts(words, self._fits(batch, words))

    def _counts(self, words: Words, fits_B: Tensor) -> dict[str, float]:
        tokens = float((words.lengths_B * fits_B).sum())
        return {"loss": tokens, "nll": tokens, "impossible": len(fits_B)}

    def _fits(self, batch: Batch, words: Words) -> Tensor:
        positions_B = self.model.nat.upsample * batch.src_tokens_BS.ne(PAD).sum(1)
        return words.lengths_B.gt(0) & self.fits(words, positions_B)

    def forward(self, batch: Batch) -> LossTerms:
        """See `Objective`."""
        words = Words.of(batch)
        fits_B = self._fits(batch, words)
        counts = self._counts(words, fits_B)
        nll_sum = -torch.where(fits_B, self.log_likelihood(batch, words), 0.0).sum()
        return {
            "loss": LossTerm(nll_sum, counts["loss"]),
            "nll": LossTerm(nll_sum.detach(), counts["nll"], weight=0.0),
            "impossible": LossTerm((~fits_B).sum(), counts["impossible"], weight=0.0),
        }

    def said_of(self, asked_BK: Tensor, features_BLD: Tensor, keep_BL: Tensor) -> Tensor:
        """The log-probabilities of a sentence's tokens at each of its positions, [B, L, K]; 0 on padding."""
        ids_BLK = asked_BK[:, None].expand(-1, keep_BL.size(1), -1)
        found_MK = gathered_log_probs(
            features_BLD[keep_BL], self.model.output_weight_VD, ids_BLK[keep_BL], product_type=self.product_type
        )
        return found_MK.new_zeros(ids_BLK.shape).masked_scatter(keep_BL[:, :, None], found_MK)


class CTCObjective(AlignedObjective):
    """Alignments with an upsampled source, blanks between equal tokens (`kdmt.losses.ctc`).

    Args:
        glancing: (update, ratio) points, linear in between: in training a first pass tells how much of the most
            probable alignment is shown to the second one (Qian et al. 2021, section 4.3, GLAT with CTC); None for one
            pass.
    """

    def __init__(self, model: NATransformer, *, glancing: Sequence[tuple[int, float]] | None = None) -> None:
        super().__init__(model)
        self.glancing = glancing
        self.ratio = 0.0 if glancing is None else glancing[0][1]

    def before_update(self, update: int) -> None:
        """See `Objective.before_update`."""
        if self.glancing is not None:
            self.ratio = piecewise_linear(update, self.glancing)

    def fits(self, words: Words, positions_B: Tensor) -> Tensor:
        """See `AlignedObjective.fits`: two equal tokens in a row need a blank in between."""
        same_BT = words.tokens_BT[:, 1:].eq(words.tokens_BT[:, :-1]) & words.tokens_BT[:, 1:].ne(PAD)
        return (words.lengths_B + same_BT.sum(1)).le(positions_B)

    def log_likelihood(self, batch: Batch, words: Words) -> Tensor:
        """See `AlignedObjective.log_likelihood`."""
        model = self.model
        with self.autocast(batch):
            encoder_output = model.encode(batch.src_tokens_BS)
            x_BLD, keep_BL = model.upsample(batch.src_tokens_BS)
        if self.training and self.glancing is not None:
            shown_BL, aligned_BL = self._glance(x_BLD, keep_BL, encoder_output, batch, words)
            x_BLD = torch.where(shown_BL[:, :, None], model.look_up_output(aligned_BL).to(x_BLD.dtype), x_BLD)
        _, said_BLK = self._read(x_BLD, keep_BL, encoder_output, batch, words)
        return ctc_log_likelihood(**_arranged(said_BLK, keep_BL, words))

    def _read(
        self, x_BLD: Tensor, keep_BL: Tensor, encoder_output: EncoderOutput, batch: Batch, words: Words
    ) -> tuple[Tensor, Tensor]:
        """Features [B, L, D], and the log-probabilities of the blank and the target's tokens, [B, L, 1 + T]."""
        with self.autocast(batch):
            features_BLD = self.model.decode_all(x_BLD, keep_BL, encoder_output)
        return features_BLD, self.said_of(self._symbols(words), features_BLD, keep_BL)

    def _symbols(self, words: Words) -> Tensor:
        """The blank, then the target's tokens: [B, 1 + T]."""
        return torch.cat([torch.full_like(words.tokens_BT[:, :1], self.model.blank), words.tokens_BT], dim=1)

    @torch.no_grad()
    def _glance(
        self, x_BLD: Tensor, keep_BL: Tensor, encoder_output: EncoderOutput, batch: Batch, words: Words
    ) -> tuple[Tensor, Tensor]:
        """Which positions are shown, bool [B, L], and the best alignment's symbols, int64 [B, L]."""
        features_BLD, said_BLK = self._read(x_BLD, keep_BL, encoder_output, batch, words)
        states_BL = ctc_best_alignment(**_arranged(said_BLK, keep_BL, words))
        place_BL = torch.where(states_BL % 2 == 1, (states_BL + 1) // 2, 0)  # among the symbols; even ones are blanks
        aligned_BL = self._symbols(words).gather(1, place_BL)
        weight_VD = self.model.output_weight_VD
        best_M = best_tokens(features_BLD[keep_BL], weight_VD, product_type=self.product_type)
        wrong_BL = torch.zeros_like(keep_BL).masked_scatter(keep_BL, best_M.ne(aligned_BL[keep_BL]))
        return glanced(wrong_BL.sum(1), keep_BL, ratio=self.ratio), aligned_BL


def _arranged(said_BLK: Tensor, keep_BL: Tensor, words: Words) -> dict[str, Tensor]:
    """What the functions of `kdmt.losses.ctc` are asked with."""
    return {
        "blank_BL": said_BLK[:, :, 0],
        "match_BLT": said_BLK[:, :, 1:],
        "tgt_tokens_BT": words.tokens_BT,
        "lengths_B": keep_BL.sum(1),
        "tgt_lengths_B": words.lengths_B.clamp_min(1),
    }


class DAGObjective(AlignedObjective):
    """Paths through a directed acyclic decoder (`kdmt.losses.dag`); the first vertex is <s>, the last </s>."""

    def fits(self, words: Words, positions_B: Tensor) -> Tensor:
        """See `AlignedObjective.fits`."""
        return (words.lengths_B + 2).le(positions_B)

    def log_likelihood(self, batch: Batch, words: Words) -> Tensor:
        """See `AlignedObjective.log_likelihood`."""
        model = self.model
        with self.autocast(batch):
            x_BLD, keep_BL = model.vertices(batch.src_tokens_BS)
            features_BLD = model.decode_all(x_BLD, keep_BL, model.encode(batch.src_tokens_BS))
            links_BLL = model.link(features_BLD, keep_BL)
        framed_BT = _framed(words)
        said_BLT = self.said_of(framed_BT, features_BLD, keep_BL)
        return dag_log_likelihood(
            said_BLT.transpose(1, 2), links_BLL, tgt_lengths_B=words.lengths_B + 2, vertices_B=keep_BL.sum(1)
        )


def _framed(words: Words) -> Tensor:
    """<s>, the words, </s>: [B, T + 2], padded."""
    start_B1 = torch.full_like(words.tokens_BT[:, :1], BOS)
    framed_BT = torch.cat([start_B1, words.tokens_BT, torch.full_like(start_B1, PAD)], dim=1)
    return framed_BT.scatter(1, words.lengths_B[:, None] + 1, EOS)
