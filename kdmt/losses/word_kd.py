"""Word-level distillation: at each target token the student's distribution is drawn to its teacher's.

    loss = (1 - alpha) * label-smoothed cross entropy + alpha * scale(T) * D(p_T, q_T) + mu * KL(q || r)

D is one of `kdmt.losses.divergences`, p_T and q_T are the teacher's and the student's distributions at temperature T
(softmax of the logits over T), and r is the teacher's marginal (Hinton et al. 2015; Kim & Rush 2016, section 3.1).
What the teacher says of a token is either its whole distribution or its k best tokens and the mass of all others.

Shapes: M target tokens, C tokens of a chunk, V vocabulary, D model width, K teacher's best tokens, G = K + 1 groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdmt.losses.divergences import LOG_ZERO, Divergence
from kdmt.losses.selection import top1_ranking

_LEAST = 1e-30  # a divisor is not smaller


@dataclass(frozen=True)
class Pull:
    """A divergence of each token and its gradient by the logits at temperature T, times T:

    q_T * coefficient + dense, or where `ids` are given: q_T * coefficient in all columns but those, there `values`
    """

    value_C: Tensor
    coefficient_C1: Tensor
    dense_CV: Tensor | None = None
    ids_CK: Tensor | None = None
    values_CK: Tensor | None = None


@dataclass(frozen=True)
class Student:
    """The student's distribution of a chunk's tokens at the teacher's temperature, [C, V]."""

    log_q_CV: Tensor
    q_CV: Tensor


class TeacherTokens(Protocol):
    """What the teacher says of the target tokens of a batch, at one temperature."""

    def pull(self, rows: slice, divergence: Divergence, student: Student) -> tuple[Pull, Tensor, Tensor]:
        """The divergence of `rows`, and the teacher's confidence (its best token's probability) and entropy, [C] each.

        Columns of `student.q_CV` whose gradient stands in `values` are set to 0.
        """
        ...

    def best(self, rows: slice, k: int) -> tuple[Tensor, Tensor]:
        """The ids of the k best tokens and their log-probabilities, [C, K] each, the best first."""
        ...

    def log_probs_of(self, rows: slice, ids_CK: Tensor) -> Tensor:
        """[C, K]"""
        ...


@dataclass(frozen=True)
class WholeDistribution:
    """Teachers that ran beside the student; of several the probabilities are averaged.

    Attributes:
        features: of each teacher's decoder, [M, D].
        weights: each teacher's output projection, [V, D].
        temperature: of the softmax.
        product_type: of the matrix products, the weights' by default.
    """

    features: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    temperature: float = 1.0
    product_type: torch.dtype | None = None

    def log_probs(self, rows: slice, *, temperature: float | None = None) -> Tensor:
        """[C, V]"""
        every = [
            self._logits(features_MD[rows], weight_VD).div_(temperature or self.temperature).log_softmax(1)
            for features_MD, weight_VD in zip(self.features, self.weights, strict=True)
        ]
        if len(every) == 1:
            return every[0]
        return torch.stack(every).logsumexp(0) - math.log(len(every))

    def _logits(self, features_CD: Tensor, weight_VD: Tensor) -> Tensor:
        dtype = self.product_type or weight_VD.dtype
        return (features_CD.to(dtype) @ weight_VD.to(dtype).t()).to(weight_VD.dtype)

    def pull(self, rows: slice, divergence: Divergence, student: Student) -> tuple[Pull, Tensor, Tensor]:
        """See `TeacherTokens.pull`."""
        log_p_CV = self.log_probs(rows)
        slope_CV = divergence.slope(log_p_CV, student.log_q_CV)
        pull = Pull(divergence.value(log_p_CV, student.log_q_CV), -slope_CV.sum(1, keepdim=True), dense_CV=slope_CV)
        return pull, log_p_CV.amax(1).exp(), -(log_p_CV.exp() * log_p_CV).sum(1)

    def best(self, rows: slice, k: int) -> tuple[Tensor, Tensor]:
        """See `TeacherTokens.best`."""
        found = self.log_probs(rows).topk(k, dim=1)
        return found.indices, found.values

    def log_probs_of(self, rows: slice, ids_CK: Tensor) -> Tensor:
        """See `TeacherTokens.log_probs_of`."""
        return self.log_probs(rows).gather(1, ids_CK)

    def marginal(self, tokens: int, chunk: int) -> Tensor:
        """The mean of p over the batch at temperature 1: [V]."""
        total_V = torch.zeros_like(self.weights[0][:, 0])
        for start in range(0, tokens, chunk):
            total_V += self.log_probs(slice(start, start + chunk), temperature=1.0).exp_().sum(0)
        return total_V / tokens


@dataclass(frozen=True)
class BestTokens:
    """The teacher's K best tokens, as a knowledge cache holds them; all others are one group.

    Attributes:
        ids_MK: int64, different ones in a row, the best first.
        log_probs_MK: their logarithms at the loss's temperature.
    """

    ids_MK: Tensor
    log_probs_MK: Tensor

    def pull(self, rows: slice, divergence: Divergence, student: Student) -> tuple[Pull, Tensor, Tensor]:
        """See `TeacherTokens.pull`. The entropy is that of the groups, at most that of the tokens."""
        ids_CK, log_q_CV, q_CV = self.ids_MK[rows], student.log_q_CV, student.q_CV
        log_p_CG = with_rest(self.log_probs_MK[rows].to(log_q_CV.dtype))
        q_CK = q_CV.gather(1, ids_CK)
        q_CV.scatter_(1, ids_CK, 0.0)
        rest_C1 = q_CV.sum(1, keepdim=True)  # of the tokens, since 1 less the others would be rounding alone
        log_q_CG = torch.cat([log_q_CV.gather(1, ids_CK), rest_C1.log()], dim=1).clamp_min_(LOG_ZERO)
        slope_CG = divergence.slope(log_p_CG, log_q_CG)
        slope_C1 = slope_CG.sum(1, keepdim=True)
        pull = Pull(
            divergence.value(log_p_CG, log_q_CG),
            slope_CG[:, -1:] / rest_C1.clamp_min(_LEAST) - slope_C1,
            ids_CK=ids_CK,
            values_CK=slope_CG[:, :-1] - q_CK * slope_C1,
        )
        return pull, log_p_CG[:, 0].exp(), -(log_p_CG.exp() * log_p_CG).sum(1)

    def best(self, rows: slice, k: int) -> tuple[Tensor, Tensor]:
        """See `TeacherTokens.best`."""
        return self.ids_MK[rows, :k], self.log_probs_MK[rows, :k]

    def log_probs_of(self, rows: slice, ids_CK: Tensor) -> Tensor:
        """See `TeacherTokens.log_probs_of`. A token that is not among the best has 0: it is less probable than any."""
        same_CKK = ids_CK[:, :, None] == self.ids_MK[rows][:, None, :]
        known_CK = (same_CKK * self.log_probs_MK[rows][:, None, :].exp()).sum(2)
        return known_CK.log().clamp_min_(LOG_ZERO)


def with_rest(log_probs_CK: Tensor) -> Tensor:
    """The logarithms of some tokens' probabilities, and of the mass of all others: [C, K + 1]."""
    rest_C1 = (1.0 - log_probs_CK.double().exp().sum(1, keepdim=True)).clamp_min_(0.0)
    return torch.cat([log_probs_CK, rest_C1.log().to(log_probs_CK.dtype)], dim=1).clamp_min_(LOG_ZERO)


@dataclass(frozen=True)
class WordKD:
    """The losses on the output distribution of one batch, for `projected_loss`.

    The sums: the whole loss; then, reported and not trained on, the negative log-likelihood of the targets, scale(T)
    times the divergence, KL(q || r), and the number of tokens that were taught.

    Attributes:
        targets_M: int64 ids.
        epsilon: label smoothing of the cross entropy.
        alpha: share of the divergence, the rest is cross entropy.
        divergence: how p and q are compared.
        teacher: what it says of the tokens, at `temperature`.
        taught_M: bool, the tokens that the divergence is taken of; None for all.
        min_confidence: teach only where the teacher gives its best token at least so much.
        max_entropy: teach only where the teacher's entropy is at most so many nats.
        log_marginal_V: log r.
        ranking: K of the ranking loss that is added to the divergence (`top1_ranking`), 0 for none.
        mutual_information: mu. A positive one lowers an upper bound of the student's mutual information between source
            and target.
    """

    targets_M: Tensor
    epsilon: float
    alpha: float
    divergence: Divergence
    teacher: TeacherTokens
    temperature: float = 1.0
    taught_M: Tensor | None = None
    min_confidence: float = 0.0
    max_entropy: float = math.inf
    ranking: int = 0
    log_marginal_V: Tensor | None = None
    mutual_information: float = 0.0

    def chunk(self, rows: slice, logits_CV: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """See `ChunkLoss.chunk`."""
        log_q_CV = logits_CV.log_softmax(1)
        q_CV = log_q_CV.exp()
        log_soft_CV, soft_CV = log_q_CV, q_CV
        if self.temperature != 1.0:
            log_soft_CV = logits_CV.div_(self.temperature).log_softmax(1)
            soft_CV = log_soft_CV.exp()
        nll_C, smooth_C = self._cross_entropy(rows, log_q_CV)
        information_C, information_CV = self._information(log_q_CV, q_CV)
        ranking_C, ranked_ids, ranked_slopes = self._ranking(rows, q_CV)
        pull, confidence_C, entropy_C = self.teacher.pull(rows, self.divergence, Student(log_soft_CV, soft_CV))
        taught_C = self._taught(rows, confidence_C, entropy_C)
        scale = self.divergence.scale(self.temperature)
        value_C = (pull.value_C * scale + ranking_C) * taught_C
        total_C = (1.0 - self.alpha) * smooth_C + self.alpha * value_C + self.mutual_information * information_C
        sums = torch.stack([each.sum() for each in (total_C, nll_C, value_C, information_C, taught_C)])
        if not gradient:
            return sums, None
        weight_C1 = (self.alpha * taught_C)[:, None]
        own_C1 = 1.0 - self.alpha - weight_C1 * ranked_slopes.sum(1, keepdim=True)  # times q itself
        gradient_CV = _pulled(
            pull, weight_C1 * (scale / self.temperature), log_soft_CV, soft_CV, own_C1 if soft_CV is q_CV else None
        )
        if soft_CV is not q_CV:
            gradient_CV.addcmul_(q_CV, own_C1)
        gradient_CV.scatter_add_(1, ranked_ids, ranked_slopes * weight_C1)
        if information_CV is not None:
            gradient_CV.add_(information_CV, alpha=self.mutual_information)
        return sums, self._less_targets(rows, gradient_CV)

    def _taught(self, rows: slice, confidence_C: Tensor, entropy_C: Tensor) -> Tensor:
        """1 for a token that the divergence is taken of, else 0."""
        taught_C = (confidence_C >= self.min_confidence) & (entropy_C <= self.max_entropy)
        if self.taught_M is not None:
            taught_C &= self.taught_M[rows]
        return taught_C.to(confidence_C.dtype)

    def _cross_entropy(self, rows: slice, log_q_CV: Tensor) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood, and the loss with label smoothing: [C] each."""
        each = self.epsilon / (log_q_CV.size(1) - 1)
        nll_C = -log_q_CV.gather(1, self.targets_M[rows][:, None])[:, 0]
        return nll_C, (1.0 - self.epsilon - each) * nll_C - each * log_q_CV.sum(1)

    def _less_targets(self, rows: slice, gradient_CV: Tensor) -> Tensor:
        """The part of the smoothed cross entropy's gradient that is not q, in place."""
        each = self.epsilon / (gradient_CV.size(1) - 1)
        share_C1 = torch.full_like(gradient_CV[:, :1], -(1.0 - self.alpha) * (1.0 - self.epsilon - each))
        gradient_CV.scatter_add_(1, self.targets_M[rows][:, None], share_C1)
        return gradient_CV.sub_((1.0 - self.alpha) * each) if each else gradient_CV

    def _information(self, log_q_CV: Tensor, q_CV: Tensor) -> tuple[Tensor, Tensor | None]:
        """KL(q || r) and its gradient by the logits, which is q (log q - log r - KL)."""
        if self.log_marginal_V is None or not self.mutual_information:
            return torch.zeros_like(q_CV[:, 0]), None
        ratio_CV = log_q_CV - self.log_marginal_V
        value_C = (ratio_CV * q_CV).sum(1)
        return value_C, ratio_CV.sub_(value_C[:, None]).mul_(q_CV)

    def _ranking(self, rows: slice, q_CV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`top1_ranking` of the tokens; without it nothing: 0 [C], ids [C, 0] and slopes [C, 0]."""
        if not self.ranking:
            nothing_C0 = q_CV[:, :0]
            return nothing_C0.sum(1), nothing_C0.long(), nothing_C0
        ids_CK, log_p_CK = self.teacher.best(rows, self.ranking)
        own = q_CV.topk(self.ranking, dim=1)
        above_CKK = log_p_CK[:, :, None] > self.teacher.log_probs_of(rows, own.indices)[:, None, :]
        return top1_ranking(ids_CK, own.indices, q_CV.gather(1, ids_CK), own.values, above_CKK)


def _pulled(pull: Pull, weight_C1: Tensor, log_soft_CV: Tensor, soft_CV: Tensor, own_C1: Tensor | None) -> Tensor:
    """The divergence's gradient times `weight_C1`, in the memory of `soft_CV`, plus that times `own_C1`."""
    more_C1 = torch.zeros_like(weight_C1) if own_C1 is None else own_C1
    gradient_CV = soft_CV.mul_(pull.coefficient_C1 * weight_C1 + more_C1)
    if pull.dense_CV is not None:
        return gradient_CV.addcmul_(pull.dense_CV, weight_C1)
    assert pull.ids_CK is not None
    assert pull.values_CK is not None
    own_CK = log_soft_CV.gather(1, pull.ids_CK).exp_()
    return gradient_CV.scatter_(1, pull.ids_CK, pull.values_CK * weight_C1 + own_CK * more_C1)
