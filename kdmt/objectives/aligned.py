"""Objectives of students whose decoder has more positions than the target: `ctc` and `dag`.

The losses' formulas are in `kdmt.losses`.

Shapes: B batch, L decoder positions, T target tokens without </s>, K symbols asked for: those of the target and what
frames or parts them, M real decoder positions, D model width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdmt.choices import OnTooLong
from kdmt.losses.ctc import ctc_best_alignment, ctc_log_likelihood
from kdmt.losses.dag import dag_best_alignment, dag_log_likelihood
from kdmt.losses.edit_scripts import compact, levenshtein_distance
from kdmt.losses.gathered import best_tokens, gathered_log_probs
from kdmt.models.attention import at_least_float32
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import EncoderOutput
from kdmt.objectives.annealing import piecewise_linear
from kdmt.objectives.glancing import Distance, glanced
from kdmt.objectives.own_positions import OwnPositionsObjective
from kdmt.types import BOS, EOS, PAD, UNK, Batch, LossTerm, LossTerms


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
        if not tokens_BT.size(1):  # no target has a word
            tokens_BT = torch.full_like(batch.tgt_tokens_BT, PAD)
        # by lengths: a sentence of a data-bin may have <s> and </s> inside it too, which frame drafts and are no words
        lengths_B = (batch.tgt_tokens_BT.ne(PAD).sum(1) - 1).clamp_min(0)
        columns_T = torch.arange(tokens_BT.size(1), device=tokens_BT.device)
        words_BT = torch.where(tokens_BT.eq(BOS) | tokens_BT.eq(EOS), UNK, tokens_BT)
        return cls(words_BT.masked_fill(columns_T >= lengths_B[:, None], PAD), lengths_B)


@dataclass(frozen=True)
class Room:
    """Which targets have an alignment, and the decoder positions that each source token gets for it."""

    fits_B: Tensor  # bool
    times_B: Tensor | None  # int64; None for the model's own factor throughout


@dataclass(frozen=True)
class Reading:
    """What the decoder says at its positions."""

    features_BLD: Tensor
    keep_BL: Tensor
    said_BLK: Tensor  # log-probabilities of the sentence's own symbols

    @property
    def positions_B(self) -> Tensor:
        return self.keep_BL.sum(1)


class AlignedObjective(OwnPositionsObjective):
    """The negative log-likelihood of the target over all its alignments with a longer decoder output.

    A target that has none in so many positions is left out, or its source is upsampled more; `impossible` is the share
    of sentences that are left out.

    Args:
        glancing: (update, ratio) points, linear in between: in training a first pass tells how much of the most
            probable alignment is shown to the second one (Qian et al. 2021; with CTC section 4.3, with a directed
            acyclic decoder Huang et al. 2022, DA-Transformer, section 3.4); None for one pass.
        too_long: what becomes of targets that have no alignment.
        others: arguments of `OwnPositionsObjective`.
    """

    terms: tuple[str, ...] = ("loss", "nll", "impossible")

    def __init__(
        self,
        model: NATransformer,
        *,
        glancing: Sequence[tuple[int, float]] | None = None,
        too_long: OnTooLong = "skip",
        **others: Any,
    ) -> None:
        super().__init__(model, **others)
        self.glancing, self.too_long = glancing, too_long
        self.ratio = 0.0 if glancing is None else glancing[0][1]

    @abstractmethod
    def needed(self, words: Words) -> Tensor:
        """The fewest positions with which each target has an alignment: int64 [B]."""

    @abstractmethod
    def inputs(self, batch: Batch, times_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Decoder inputs without positions, [B, L, D], and which are real, bool [B, L]."""

    @abstractmethod
    def symbols(self, words: Words) -> Tensor:
        """What the decoder is asked for: int64 [B, K]."""

    @abstractmethod
    def log_likelihood(self, reading: Reading, words: Words) -> Tensor:
        """log P(target) of each sentence: [B]."""

    @abstractmethod
    def best_alignment(self, reading: Reading, words: Words) -> tuple[Tensor, Tensor]:
        """Which symbol each position has on the most probable path, int64 [B, L], and which ones may be shown."""

    def wrong(self, best_BL: Tensor, aligned_BL: Tensor, may_BL: Tensor, words: Words) -> Tensor:  # noqa: ARG002
        """How wrong the best symbols are, as many as may be shown at most: positions that differ, int64 [B]."""
        return (best_BL.ne(aligned_BL) & may_BL).sum(1)

    def before_update(self, update: int) -> None:
        """See `Objective.before_update`."""
        if self.glancing is not None:
            self.ratio = piecewise_linear(update, self.glancing)

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`: target tokens without </s>, of the sentences that have an alignment."""
        words = Words.of(batch)
        return {**self._counts(words, self._room(batch, words)), **self.source_counts(batch)}

    def _counts(self, words: Words, room: Room) -> dict[str, float]:
        tokens = float((words.lengths_B * room.fits_B).sum())
        counts = dict.fromkeys(self.terms, tokens)
        return {**counts, "impossible": len(room.fits_B)}

    def _room(self, batch: Batch, words: Words) -> Room:
        needed_B, sources_B = self.needed(words), batch.src_tokens_BS.ne(PAD).sum(1)
        has_words_B = words.lengths_B.gt(0)
        if self.too_long == "skip" or not self.training:
            return Room(has_words_B & needed_B.le(self.model.nat.upsample * sources_B), None)
        times_B = (-(-needed_B // sources_B)).clamp_min(self.model.nat.upsample)
        fits_B = has_words_B & (times_B * sources_B).le(self.model.max_decoder_positions)
        return Room(fits_B, torch.where(fits_B, times_B, self.model.nat.upsample))

    def forward(self, batch: Batch) -> LossTerms:
        """See `Objective`."""
        words = Words.of(batch)
        room = self._room(batch, words)
        counts = self._counts(words, room)
        encoded, source_terms = self.encode(batch)
        with self.autocast(batch):
            x_BLD, keep_BL = self.inputs(batch, room.times_B)
        if self.training and self.glancing is not None:
            shown_BL, aligned_BL = self._glance(x_BLD, keep_BL, encoded, words)
            with self.autocast(batch):
                x_BLD = torch.where(shown_BL[:, :, None], self.model.look_up_output(aligned_BL).to(x_BLD.dtype), x_BLD)
        deep = self.training and self.deep_supervision > 0.0
        readings = self._read(x_BLD, keep_BL, encoded, words, deep=deep)
        found = [self.log_likelihood(each, words) for each in readings]
        # the likelihood of a target that hardly fits may be too small for a number
        counted_B = room.fits_B & torch.stack([each.detach() > -torch.inf for each in found]).all(0)
        sums = [-torch.where(counted_B, each, 0.0).sum() for each in found]
        terms = {
            "loss": LossTerm(sums[-1], counts["loss"]),
            "nll": LossTerm(sums[-1].detach(), counts["nll"], weight=0.0),
            "impossible": LossTerm((~counted_B).sum(), counts["impossible"], weight=0.0),
        }
        if deep:
            lower = torch.stack(sums[:-1]).mean()
            terms["deep"] = LossTerm(lower, counts["deep"], self.deep_supervision)
        return {**terms, **source_terms}

    def _read(
        self, x_BLD: Tensor, keep_BL: Tensor, encoded: EncoderOutput, words: Words, *, deep: bool = False
    ) -> list[Reading]:
        """What the last layer says; before it, if asked for, what the lower ones say."""
        trace = self.model.deep_trace() if deep else None
        with self.autocast_on(x_BLD.device):
            features_BLD = self.model.decode_all(x_BLD, keep_BL, encoded, trace)
            lower = [] if trace is None else self.model.lower_layers(trace)
        asked_BK = self.symbols(words)
        return [Reading(each, keep_BL, self._said_of(asked_BK, each, keep_BL)) for each in (*lower, features_BLD)]

    def _said_of(self, asked_BK: Tensor, features_BLD: Tensor, keep_BL: Tensor) -> Tensor:
        """The log-probabilities of a sentence's symbols at each of its positions, [B, L, K]; 0 on padding."""
        ids_BLK = asked_BK[:, None].expand(-1, keep_BL.size(1), -1)
        found_MK = gathered_log_probs(
            features_BLD[keep_BL], self.model.output_weight_VD, ids_BLK[keep_BL], product_type=self.product_type
        )
        found_MK = at_least_float32(found_MK)  # sums over a path are beyond half precision
        return found_MK.new_zeros(ids_BLK.shape).masked_scatter(keep_BL[:, :, None], found_MK)

    @torch.no_grad()
    def _glance(self, x_BLD: Tensor, keep_BL: Tensor, encoded: EncoderOutput, words: Words) -> tuple[Tensor, Tensor]:
        """Which positions are shown, as many as the ratio of the wrong ones, bool [B, L], and the symbols of the best
        alignment, int64 [B, L]."""
        (reading,) = self._read(x_BLD, keep_BL, encoded, words)
        places_BL, may_BL = self.best_alignment(reading, words)
        aligned_BL = self.symbols(words).gather(1, places_BL)
        weight_VD = self.model.output_weight_VD
        best_M = best_tokens(reading.features_BLD[keep_BL], weight_VD, product_type=self.product_type)
        wrong_B = self.wrong(aligned_BL.masked_scatter(keep_BL, best_M), aligned_BL, may_BL, words)
        return glanced(wrong_B, may_BL, ratio=self.ratio), aligned_BL


class CTCObjective(AlignedObjective):
    """Alignments with an upsampled source, blanks between equal tokens (`kdmt.losses.ctc`).

    Args:
        distance: how wrong the first pass of glancing is: the positions that differ from the most probable alignment,
            or the edits between what it says and the target.
        others: arguments of `AlignedObjective`.
    """

    def __init__(self, model: NATransformer, *, distance: Distance = "hamming", **others: Any) -> None:
        super().__init__(model, **others)
        self.distance = distance

    def needed(self, words: Words) -> Tensor:
        """See `AlignedObjective.needed`: two equal tokens in a row need a blank in between."""
        same_BT = words.tokens_BT[:, 1:].eq(words.tokens_BT[:, :-1]) & words.tokens_BT[:, 1:].ne(PAD)
        return words.lengths_B + same_BT.sum(1)

    def inputs(self, batch: Batch, times_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `AlignedObjective.inputs`."""
        x_BLD, keep_BL = self.model.upsample(batch.src_tokens_BS, times_B)
        # nothing is looked up there without glancing, and replicas wait for a gradient of every parameter
        return x_BLD + 0.0 * self.model.tgt_embed.tokens.weight[0, 0], keep_BL

    def symbols(self, words: Words) -> Tensor:
        """The blank, then the target's tokens."""
        return torch.cat([torch.full_like(words.tokens_BT[:, :1], self.model.blank), words.tokens_BT], dim=1)

    def log_likelihood(self, reading: Reading, words: Words) -> Tensor:
        """See `AlignedObjective.log_likelihood`."""
        return ctc_log_likelihood(**_ctc_arguments(reading, words))

    def best_alignment(self, reading: Reading, words: Words) -> tuple[Tensor, Tensor]:
        """See `AlignedObjective.best_alignment`: all positions have a symbol."""
        states_BL = ctc_best_alignment(**_ctc_arguments(reading, words))
        return torch.where(states_BL % 2 == 1, (states_BL + 1) // 2, 0), reading.keep_BL  # even states are blanks

    def wrong(self, best_BL: Tensor, aligned_BL: Tensor, may_BL: Tensor, words: Words) -> Tensor:
        """See `AlignedObjective.wrong`."""
        if self.distance == "hamming":
            return super().wrong(best_BL, aligned_BL, may_BL, words)
        is_new_BL = torch.cat([torch.ones_like(may_BL[:, :1]), best_BL[:, 1:].ne(best_BL[:, :-1])], dim=1)
        said_BL = is_new_BL & may_BL & best_BL.ne(self.model.blank)
        edits_B = levenshtein_distance(
            compact(best_BL, said_BL, pad=PAD),
            words.tokens_BT,
            hyp_lengths_B=said_BL.sum(1),
            ref_lengths_B=words.lengths_B,
        )
        return edits_B.minimum(may_BL.sum(1))


def _ctc_arguments(reading: Reading, words: Words) -> dict[str, Any]:
    """What the functions of `kdmt.losses.ctc` are asked with."""
    return {
        "blank_BL": reading.said_BLK[:, :, 0],
        "match_BLT": reading.said_BLK[:, :, 1:],
        "tgt_tokens_BT": words.tokens_BT,
        "lengths_B": reading.positions_B,
        "tgt_lengths_B": words.lengths_B.clamp_min(1),
    }


class DAGObjective(AlignedObjective):
    """Paths through a directed acyclic decoder (`kdmt.losses.dag`); the first vertex is <s>, the last </s>."""

    def needed(self, words: Words) -> Tensor:
        """See `AlignedObjective.needed`."""
        return words.lengths_B + 2

    def inputs(self, batch: Batch, times_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `AlignedObjective.inputs`."""
        return self.model.vertices(batch.src_tokens_BS, times_B)

    def symbols(self, words: Words) -> Tensor:
        """<s>, the target's tokens, </s>."""
        return framed(words)

    def log_likelihood(self, reading: Reading, words: Words) -> Tensor:
        """See `AlignedObjective.log_likelihood`."""
        return dag_log_likelihood(**self._arguments(reading, words))

    def best_alignment(self, reading: Reading, words: Words) -> tuple[Tensor, Tensor]:
        """See `AlignedObjective.best_alignment`: of the vertices on the path all but the first and the last."""
        vertices_BK = dag_best_alignment(**self._arguments(reading, words))
        columns_K = torch.arange(vertices_BK.size(1), device=vertices_BK.device).expand_as(vertices_BK)
        inner_BK = (columns_K > 0) & (columns_K <= words.lengths_B[:, None])
        outside = reading.keep_BL.size(1)  # a column that is cut off
        places_BL = torch.zeros_like(reading.keep_BL[:, :1], dtype=torch.int64).repeat(1, outside + 1)
        places_BL.scatter_(1, vertices_BK.masked_fill(~inner_BK, outside), columns_K)
        places_BL = places_BL[:, :-1]
        return places_BL, places_BL > 0

    def _arguments(self, reading: Reading, words: Words) -> dict[str, Any]:
        """What the functions of `kdmt.losses.dag` are asked with."""
        with self.autocast_on(reading.features_BLD.device):
            links_BLL = self.model.link(reading.features_BLD, reading.keep_BL)
        return {
            "match_BTL": reading.said_BLK.transpose(1, 2),
            "links_BLL": links_BLL,
            "tgt_lengths_B": words.lengths_B + 2,
            "vertices_B": reading.positions_B,
        }


def framed(words: Words) -> Tensor:
    """<s>, the words, </s>: [B, T + 2], padded."""
    start_B1 = torch.full_like(words.tokens_BT[:, :1], BOS)
    framed_BT = torch.cat([start_B1, words.tokens_BT, torch.full_like(start_B1, PAD)], dim=1)
    return framed_BT.scatter(1, words.lengths_B[:, None] + 1, EOS)
