"""Objectives that learn from a teacher: models run, losses called. The losses' formulas are in `kdmt.losses`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kdmt.config import WordKD as WordKDSettings
from kdmt.losses.cross_entropy import token_nll
from kdmt.losses.divergences import divergence
from kdmt.losses.projection import CHUNKS, projected_loss
from kdmt.losses.selection import harder_than_most, hardest, push
from kdmt.losses.word_kd import BestTokens, TeacherTokens, WholeDistribution, WordKD
from kdmt.models.transformer import Transformer
from kdmt.train.objectives import CrossEntropyObjective
from kdmt.train.schedule import piecewise_linear
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
        self.alphas = settings.alpha_schedule or [(0, settings.alpha)]
        self.alpha = self.alphas[0][1]
        self.queue_N = torch.empty(0)  # negative log-likelihoods of the tokens that came last
        self.marginal_V: Tensor | None = None  # the teacher's, as a running average
        if settings.mutual_information or any(alpha for _, alpha in self.alphas):
            informed = ("mutual_information",) if settings.mutual_information else ()
            self.terms = (*self.terms, "word_kd", "taught", *informed)

    def train(self, mode: bool = True) -> WordKDObjective:
        """The student alone is ever in training mode."""
        super().train(mode)
        self.frozen.eval()
        return self

    def before_update(self, update: int) -> None:
        """See `Objective.before_update`."""
        self.alpha = piecewise_linear(update, self.alphas)

    def memory(self) -> dict[str, Tensor]:
        """See `Objective.memory`."""
        memory = {"queue": self.queue_N} if self.settings.select == "global" else {}
        return memory if self.marginal_V is None else {**memory, "marginal": self.marginal_V}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """See `Objective.remember`."""
        self.queue_N = memory.get("queue", self.queue_N)
        self.marginal_V = memory.get("marginal")

    def forward(self, batch: Batch) -> LossTerms:
        features_MD = self.features(self.model, batch)
        if not self.training or not (self.alpha or self.settings.mutual_information):  # plain training, bit for bit
            return self.cross_entropy(batch, features_MD)
        teacher, log_marginal_V = self._ask_teacher(batch)
        targets_M = self.targets(batch)
        loss = WordKD(
            targets_M=targets_M,
            epsilon=self.label_smoothing,
            alpha=self.alpha,
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
        return distribution, self._marginal(distribution.marginal(batch.num_tgt_tokens, chunk)).log()

    def _marginal(self, of_batch_V: Tensor) -> Tensor:
        """The batch's marginal, or the running average with the batch in it."""
        momentum = self.settings.marginal_momentum
        if not momentum:
            return of_batch_V
        self.marginal_V = of_batch_V if self.marginal_V is None else self.marginal_V.lerp(of_batch_V, 1.0 - momentum)
        return self.marginal_V

    def _select(self, features_MD: Tensor, targets_M: Tensor) -> Tensor | None:
        """The tokens that are taught, None for all."""
        if self.settings.select == "all":
            return None
        nll_M = token_nll(features_MD, self.model.output_weight_VD, targets_M, product_type=self.product_type)
        if self.settings.select == "batch":
            return hardest(nll_M, self.settings.rate)
        self.queue_N = push(self.queue_N.to(nll_M), nll_M, self.settings.queue)
        return harder_than_most(nll_M, self.queue_N, self.settings.rate)
