"""Objectives of students that edit a draft: `levenshtein` and `insertion`.

In training a draft is the reference with words left out: of three sentences in ten all of them, since decoding begins
so; else a number drawn evenly from none to all, at random. An expert, who knows the reference, says what is to be done
about it (`kdmt.losses.edit_scripts`).

Shapes: B batch, N tokens of a draft, T target tokens with <s> and </s>, M tokens that are asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.losses.cross_entropy import projected_cross_entropy
from kdmt.losses.edit_scripts import common_subsequence, compact, missing_between, opened, spread
from kdmt.losses.gathered import best_tokens, gathered_log_probs
from kdmt.losses.insertion import missing_spans
from kdmt.models.attention import at_least_float32
from kdmt.models.edit_heads import MOST_INSERTED
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import EncoderOutput
from kdmt.objectives.aligned import Words, framed
from kdmt.objectives.glancing import drawn
from kdmt.objectives.own_positions import OwnPositionsObjective
from kdmt.types import BOS, EOS, PAD, UNK, Batch, LossTerm, LossTerms

_FROM_NOTHING = 0.3  # probability that a draft has no words
_POLICY_SMOOTHING = 0.01  # of the labels of deletions and of numbers of placeholders; fairseq has it for the latter


@dataclass(frozen=True)
class _Draft:
    """What a batch's drafts are and what is missing in them."""

    reference_BT: Tensor  # <s>, words, </s>
    tokens_BN: Tensor
    lengths_B: Tensor  # of the drafts
    partner_BN: Tensor  # the reference token that each stands for
    counts_BN: Tensor  # tokens missing after each but the last

    @property
    def slots_BN(self) -> Tensor:
        """Which places between neighbours exist: bool [B, N - 1]."""
        return self.tokens_BN[:, 1:].ne(PAD)

    @property
    def shares_M(self) -> Tensor:
        """What each slot counts: those of a sentence 1 together. [M]"""
        return (1.0 / (self.lengths_B - 1))[:, None].expand_as(self.slots_BN)[self.slots_BN]


class EditObjective(OwnPositionsObjective):
    """What is common to those that learn from an expert's edits of a draft; `deep` is of the tokens."""

    def prepare(self, batch: Batch) -> Batch:
        """See `Objective.prepare`: draws the drafts."""
        return replace(batch, seen_BT=_leave_out(framed(Words.of(batch))))

    def draft(self, batch: Batch) -> _Draft:
        """In evaluation mode it is <s> and </s> alone."""
        reference_BT = framed(Words.of(batch))
        references_B = reference_BT.ne(PAD).sum(1)
        reference_BT = reference_BT[:, : int(references_B.max())]  # as wide as what an expert makes of the drafts
        tokens_BN = batch.seen_BT
        if tokens_BN is None or not self.training:
            tokens_BN = torch.tensor([[BOS, EOS]], device=reference_BT.device).expand(len(reference_BT), -1)
        lengths_B = tokens_BN.ne(PAD).sum(1)
        partner_BN = common_subsequence(tokens_BN, reference_BT, hyp_lengths_B=lengths_B, ref_lengths_B=references_B)
        counts_BN = missing_between(partner_BN, hyp_lengths_B=lengths_B)
        return _Draft(reference_BT, tokens_BN, lengths_B, partner_BN, counts_BN)

    def forward(self, batch: Batch) -> LossTerms:
        """See `Objective`."""
        encoded, source_terms = self.encode(batch)
        return {**self.learn(batch, self.draft(batch), encoded, self.counts(batch)), **source_terms}

    @abstractmethod
    def learn(self, batch: Batch, draft: _Draft, encoded: EncoderOutput, counts: dict[str, float]) -> LossTerms:
        """The terms of a batch."""

    def read(self, batch: Batch, tokens_BN: Tensor, encoded: EncoderOutput) -> Tensor:
        """Features of a draft: [B, N, D]."""
        return self.read_deep(batch, tokens_BN, encoded, deep=False)[-1]

    def read_deep(self, batch: Batch, tokens_BN: Tensor, encoded: EncoderOutput, *, deep: bool = True) -> list[Tensor]:
        """Features of a draft, [B, N, D], with deep supervision after those of the lower layers."""
        trace = self.model.deep_trace() if deep and self.deep_supervision else None
        with self.autocast(batch):
            features_BND = self.model.read_draft(tokens_BN, encoded, trace)
            return [*([] if trace is None else self.model.lower_layers(trace)), features_BND]

    def token_terms(self, sums: list[tuple[Tensor, Tensor]], counts: dict[str, float]) -> LossTerms:
        """From the loss and the negative log-likelihood of the tokens at each layer that is asked for."""
        loss_sum, nll_sum = sums[-1]
        terms = {
            "loss": LossTerm(loss_sum, counts["loss"]),
            "nll": LossTerm(nll_sum.detach(), counts["nll"], weight=0.0),
        }
        if self.deep_supervision:
            lower = torch.stack([each for each, _ in sums[:-1]]).mean()
            terms["deep"] = LossTerm(lower, counts["deep"], self.deep_supervision)
        return terms

    def _sizes(self, batch: Batch) -> tuple[int, int]:
        """The numbers of words and of the drafts' tokens, <s> and </s> among these."""
        words = int(Words.of(batch).lengths_B.sum())
        if batch.seen_BT is None or not self.training:
            return words, 2 * len(batch.src_tokens_BS)
        return words, int(batch.seen_BT.ne(PAD).sum())


def _leave_out(reference_BT: Tensor) -> Tensor:
    """Drafts: [B, N]. Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps."""
    words_BT = reference_BT.ne(PAD) & reference_BT.ne(BOS) & reference_BT.ne(EOS)
    numbers_B = words_BT.sum(1)
    is_empty_B = (torch.rand(len(numbers_B)) < _FROM_NOTHING).to(numbers_B.device)
    some_B = (torch.rand(len(numbers_B)).to(numbers_B.device) * (numbers_B + 1)).long()
    left_out_B = torch.where(is_empty_B, numbers_B, some_B)
    return compact(reference_BT, reference_BT.ne(PAD) & ~drawn(left_out_B, words_BT), pad=PAD)


class LevenshteinObjective(EditObjective):
    """Three policies learnt from the expert (Gu et al. 2019, section 3.3).

    `placeholders`: how many tokens are missing between neighbours of the draft, a mean over a sentence's slots. `loss`
    and `nll`: the tokens that stand in the expert's placeholders. `deletion`: which tokens are wrong where the student
    itself has filled these; drafts of a wrong length, which its own placeholders would give, are not learnt from. In
    evaluation mode the tokens alone.

    Args:
        label_smoothing: of the tokens.
        others: arguments of `OwnPositionsObjective`.
    """

    def __init__(self, model: NATransformer, *, label_smoothing: float, **others: Any) -> None:
        super().__init__(model, **others)
        self.label_smoothing = label_smoothing
        self.terms = (*self.terms, "placeholders", "deletion")

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`."""
        words, tokens = self._sizes(batch)
        sentences = len(batch.src_tokens_BS)
        missing = float(words + 2 * sentences - tokens)
        counts = dict.fromkeys(self.terms, missing)
        return {**counts, "placeholders": float(sentences), "deletion": float(words), **self.source_counts(batch)}

    def learn(self, batch: Batch, draft: _Draft, encoded: EncoderOutput, counts: dict[str, float]) -> LossTerms:
        """See `EditObjective.learn`."""
        open_BT = spread(draft.tokens_BN, draft.counts_BN, lengths_B=draft.lengths_B, fill=UNK, pad=PAD)
        asked_BT = opened(draft.counts_BN, lengths_B=draft.lengths_B)
        layers = [each[asked_BT] for each in self.read_deep(batch, open_BT, encoded)]
        weight_VD = self.model.output_weight_VD
        sums = [
            projected_cross_entropy(
                features_MD,
                weight_VD,
                draft.reference_BT[asked_BT],
                epsilon=self.label_smoothing,
                product_type=self.product_type,
            )
            for features_MD in layers
        ]
        terms = self.token_terms(sums, counts)
        if not self.training:
            return terms
        written_M = best_tokens(layers[-1], weight_VD, without=PAD, product_type=self.product_type)
        filled_BT = open_BT.masked_scatter(asked_BT, written_M)
        terms["placeholders"] = LossTerm(self._placeholders(batch, draft, encoded), counts["placeholders"])
        terms["deletion"] = LossTerm(self._deletion(batch, draft, filled_BT, encoded), counts["deletion"])
        return terms

    def _placeholders(self, batch: Batch, draft: _Draft, encoded: EncoderOutput) -> Tensor:
        features_BND = self.read(batch, draft.tokens_BN, encoded)
        with self.autocast(batch):
            logits_BNK = self.model.edits.missing(features_BND)
        losses_M = _policy_losses(logits_BNK, draft.counts_BN.clamp_max(MOST_INSERTED), draft.slots_BN)
        return (losses_M * draft.shares_M).sum()

    def _deletion(self, batch: Batch, draft: _Draft, filled_BT: Tensor, encoded: EncoderOutput) -> Tensor:
        lengths_B = filled_BT.ne(PAD).sum(1)
        partner_BT = common_subsequence(filled_BT, draft.reference_BT, hyp_lengths_B=lengths_B, ref_lengths_B=lengths_B)
        features_BTD = self.read(batch, filled_BT, encoded)
        with self.autocast(batch):
            logits_BT2 = self.model.edits.deleted(features_BTD)
        columns_T = torch.arange(filled_BT.size(1), device=filled_BT.device)
        words_BT = (columns_T > 0) & (columns_T < lengths_B[:, None] - 1)
        return _policy_losses(logits_BT2, partner_BT.eq(-1).long(), words_BT).sum()


def _policy_losses(logits_BNK: Tensor, labels_BN: Tensor, asked_BN: Tensor) -> Tensor:
    """Label-smoothed cross entropy of each that is asked for: [M]."""
    return F.cross_entropy(
        at_least_float32(logits_BNK[asked_BN]), labels_BN[asked_BN], reduction="none", label_smoothing=_POLICY_SMOOTHING
    )


class InsertionObjective(EditObjective):
    """What each slot of a draft is to have (`kdmt.losses.insertion`): a mean over the slots of a sentence, and over
    sentences (Stern et al. 2019, section 4.2).

    Args:
        temperature: how much more the middle of a span counts.
        others: arguments of `OwnPositionsObjective`.
    """

    def __init__(self, model: NATransformer, *, temperature: float, **others: Any) -> None:
        super().__init__(model, **others)
        self.temperature = temperature

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`."""
        return {**dict.fromkeys(self.terms, float(len(batch.src_tokens_BS))), **self.source_counts(batch)}

    def learn(self, batch: Batch, draft: _Draft, encoded: EncoderOutput, counts: dict[str, float]) -> LossTerms:
        """See `EditObjective.learn`."""
        tokens_BNK, weights_BNK = missing_spans(
            draft.reference_BT,
            draft.partner_BN,
            draft.counts_BN,
            nothing=self.model.nothing,
            temperature=self.temperature,
        )
        tokens_MK = tokens_BNK[draft.slots_BN]
        weights_MK = weights_BNK[draft.slots_BN] * draft.shares_M[:, None]
        sums = []
        for features_BND in self.read_deep(batch, draft.tokens_BN, encoded):
            with self.autocast(batch):
                slots_MD = self.model.slots(features_BND)[draft.slots_BN]
            said_MK = gathered_log_probs(
                slots_MD, self.model.output_weight_VD, tokens_MK, product_type=self.product_type
            )
            loss_sum = -(said_MK * weights_MK).sum()
            sums.append((loss_sum, loss_sum))
        return self.token_terms(sums, counts)
