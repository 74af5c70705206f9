"""Objectives that learn from a teacher: models run, losses called. The losses' formulas are in `kdmt.losses`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdmt.config import WordKD as WordKDSettings
from kdmt.losses.cross_entropy import token_nll
from kdmt.losses.divergences import divergence
from kdmt.losses.projection import CHUNKS, projected_loss
from kdmt.losses.selection import hardest
from kdmt.losses.word_kd import BestTokens, TeacherTokens, WholeDistribution, WordKD
from kdmt.models.transformer import Transformer
from kdmt.train.objectives import CrossEntropyObjective
from kdmt.types import Batch, LossTerm, LossTerms


class WordKDObjective(CrossEntropyObjective):
    """Cross entropy mixed with a divergence from the teacher's distribution at each target token.

    `loss` is what is trained on; reported beside it are `nll`, `word_kd` (the divergence alone, a token), the share of
    tokens that were `taught`, and with it in the settings `mutual_information`.

    Args:
        teachers: that run beside the student, frozen; none where batches bring the knowledge of a cache.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        label_smoothing: float,
        settings: WordKDSettings,
        teachers: Sequence[Transformer] = (),
    ) -> None:
        super().__init__(model, label_smoothing=label_smoothing)
        self.settings = settings
        self.teachers = tuple(teachers)
        self.frozen = nn.ModuleList(teachers).requires_grad_(False)  # what moves to a device with the student
        self.divergence = divergence(settings.divergence, beta=settings.beta)
        self.learns = bool(settings.alpha or settings.mutual_information)  # else it is plain training, bit for bit
        if self.learns:
            informed = ("mutual_information",) if settings.mutual_information else ()
            self.terms = (*self.terms, "word_kd", "taught", *informed)

    def train(self, mode: bool = True) -> WordKDObjective:
        """The student alone is ever in training mode."""
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, batch: Batch) -> LossTerms:
        features_MD = self.features(self.model, batch)
        if not self.training or not self.learns:
            return self.cross_entropy(batch, features_MD)
        teacher, log_marginal_V = self._ask_teacher(batch)
        targets_M = self.targets(batch)
        loss = WordKD(
            targets_M=targets_M,
            epsilon=self.label_smoothing,
            alpha=self.settings.alpha,
            divergence=self.divergence,
            teacher=teacher,
            temperature=self.settings.temperature,
            taught_M=self._select(features_MD, targets_M),
            min_confidence=self.settings.min_confidence,
            max_entropy=math.inf if self.settings.max_entropy is None else self.settings.max_entropy,
            ranking=self.settings.top1_ranking,
            log_marginal_V=log_marginal_V,
            mutual_information=self.settings.mutual_information,
        )
        total, parts = projected_loss(features_MD, self.model.output_weight_VD, loss, product_type=self.product_type)
        nll, value, information, taught = parts
        sums = {"nll": nll, "word_kd": value, "taught": taught, "mutual_information": information}
        reported = {name: LossTerm(sums[name], batch.num_tgt_tokens, weight=0.0) for name in self.terms[1:]}
        return {"loss": LossTerm(total, batch.num_tgt_tokens), **reported}

    @torch.no_grad()
    def _ask_teacher(self, batch: Batch) -> tuple[TeacherTokens, Tensor | None]:
        """What the teacher says of the batch's target tokens; and log r, where it is asked for."""
        if not self.teachers:
            if batch.knowledge is None:
                raise ValueError("word-level distillation needs a teacher, or batches with its knowledge")
            return BestTokens(batch.knowledge.ids_MK, batch.knowledge.log_probs_MK), None
        distribution = WholeDistribution(
            tuple(self.features(teacher, batch) for teacher in self.teachers),
            tuple(teacher.output_weight_VD for teacher in self.teachers),
            self.settings.temperature,
            self.product_type,
        )
        if not self.settings.mutual_information:
            return distribution, None
        chunk = CHUNKS.get(batch.src_tokens_BS.device.type, CHUNKS["cpu"])
        return distribution, distribution.marginal(batch.num_tgt_tokens, chunk).log()

    def _select(self, features_MD: Tensor, targets_M: Tensor) -> Tensor | None:
        """The tokens that are taught, None for all."""
        if self.settings.select == "all":
            return None
        nll_M = token_nll(features_MD, self.model.output_weight_VD, targets_M, product_type=self.product_type)
        return hardest(nll_M, self.settings.rate)
