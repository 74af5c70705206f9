"""Word-level distillation: the student learns the teacher's distribution over the vocabulary at each target token.

    loss = (1 - alpha) * label-smoothed cross entropy + alpha * scale(T) * D(p_T, q_T) + mu * KL(q || r)

For a token that is not selected, the loss is the cross entropy plus mu * KL(q || r).

D is one of `kdmt.losses.divergences`, p_T and q_T are the distributions of teacher and student at temperature T
(softmax of the logits divided by T), and r is the teacher's marginal (Hinton et al. 2015; Kim & Rush 2016, section
3.1). The teacher's distribution is known either as a whole, or as its k best tokens and the mass of all others.

Shapes: M target tokens, C tokens of a chunk, V vocabulary, D model width, K teacher's best tokens, G = K + 1 groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from kdmt.losses import fused
from kdmt.losses.cross_entropy import ChunkLoss, Scratch, logits_of, share_of_others, weighted_sum
from kdmt.losses.divergences import LOG_ZERO, Distribution, Divergence, Slope, cross_entropy, kl
from kdmt.losses.token_selection import top1_ranking

_LEAST = 1e-30  # lower bound of divisors


@dataclass(frozen=True)
class Pull:
    """Divergence of each token and its gradient with respect to the logits at temperature T, times T.

    The gradient is q_T * coefficient + slope. If `ids` are given, it is `values` in the columns of `ids` and
    q_T * coefficient in all other columns.

    Attributes:
        value_C: divergence.
        teacher_dist: the teacher's distribution over tokens, [C, V], or over groups, [C, G]: its best tokens, then the
            rest.
    """

    value_C: Tensor
    coefficient_C1: Tensor
    teacher_dist: Distribution
    slope: Slope | None = None
    ids_CK: Tensor | None = None
    values_CK: Tensor | None = None

    def confidence_C(self) -> Tensor:
        """Return the probability of the teacher's best token, [C]."""
        return self.teacher_dist.confidence() if self.ids_CK is None else self.teacher_dist.probs[:, 0]


class TeacherTokens(Protocol):
    """The teacher's distributions for the target tokens of a batch, at one temperature."""

    def pull(self, rows: slice, divergence: Divergence, student: Distribution) -> Pull:
        """Return the divergence between teacher and student for the tokens `rows`.

        Args:
            student: the student's distribution at the same temperature, [C, V]. If the result has `ids_CK`, the
                student's exponentials in these columns are set to 0.
        """
        ...

    def best(self, rows: slice, k: int, teacher_dist: Distribution) -> tuple[Tensor, Tensor]:
        """Return the ids and scores of the k best tokens, [C, K] each, the best first.

        A higher score means a higher probability. `teacher_dist` comes from the `pull` of the same rows.
        """
        ...

    def scores_of(self, rows: slice, ids_CK: Tensor, teacher_dist: Distribution) -> Tensor:
        """Return the scores of the given tokens, comparable with the scores of `best`: [C, K]."""
        ...


@dataclass(frozen=True)
class WholeDistribution:
    """Distributions of teachers that run with the student; the probabilities of several teachers are averaged.

    The shape of weights has N teachers.

    Attributes:
        features: decoder features of each teacher, [M, D].
        weights: output projection of each teacher, [V, D].
        temperature: temperature of the softmax.
        product_type: number type of the matrix products (default: the type of the weights).
        log_weights_NM: logarithm of the weight of each teacher in the average at each token; None for equal weights.
    """

    features: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    temperature: float = 1.0
    product_type: torch.dtype | None = None
    log_weights_NM: Tensor | None = None
    scratch: Scratch = field(default_factory=Scratch)

    @cached_property
    def _factors(self) -> list[Tensor]:
        """Output projections in the number type of the products."""
        return [weight_VD.to(self.product_type or weight_VD.dtype) for weight_VD in self.weights]

    def distribution(self, rows: slice, *, temperature: float | None = None) -> Distribution:
        """Return the distribution of the tokens `rows`, [C, V]. It is valid until the next call."""
        every = [self._one(number, rows, temperature or self.temperature) for number in range(len(self.features))]
        if len(every) == 1:
            return every[0]
        logs_NCV = torch.stack([each.logs for each in every])
        if self.log_weights_NM is None:
            return Distribution.of_logs(logs_NCV.logsumexp(0) - math.log(len(every)))
        return Distribution.of_logs((logs_NCV + self.log_weights_NM[:, rows, None]).logsumexp(0))

    def _one(self, number: int, rows: slice, temperature: float) -> Distribution:
        weight_VD, features_CD = self.weights[number], self.features[number][rows].to(self.weights[number].dtype)
        logits_CV, probs_CV = (
            self.scratch.matrix(f"{name} {number}", len(features_CD), len(weight_VD), weight_VD)
            for name in ("logs", "probs")
        )
        logits_of(features_CD, self._factors[number], logits_CV)
        if temperature != 1.0:
            logits_CV.div_(temperature)
        return Distribution.of_logits(logits_CV, out=probs_CV)

    def logits(self, rows: slice) -> Tensor:
        """Return the logits of the first teacher in the type of the products. They are valid until the next call."""
        factor_VD = self._factors[0]
        factor_CD = self.features[0][rows].to(factor_VD.dtype)
        return torch.mm(factor_CD, factor_VD.t(), out=self.scratch.aligned("logits", len(factor_CD), factor_VD))

    def pull(self, rows: slice, divergence: Divergence, student: Distribution) -> Pull:
        """See `TeacherTokens.pull`."""
        teacher_dist = self.distribution(rows)
        value_C, slope = divergence.compare(teacher_dist, student, out=self.scratch("slope", teacher_dist.scores))
        return Pull(value_C, -slope.total, teacher_dist, slope=slope)

    def best(self, _: slice, k: int, teacher_dist: Distribution) -> tuple[Tensor, Tensor]:
        """See `TeacherTokens.best`."""
        found = teacher_dist.scores.topk(k, dim=1)
        return found.indices, found.values

    def scores_of(self, _: slice, ids_CK: Tensor, teacher_dist: Distribution) -> Tensor:
        """See `TeacherTokens.scores_of`."""
        return teacher_dist.scores.gather(1, ids_CK)

    def marginal(self, tokens: int, chunk: int) -> Tensor:
        """Return the mean of p over the batch at temperature 1: [V]."""
        total_V = torch.zeros_like(self.weights[0][:, 0])
        for start in range(0, tokens, chunk):
            total_V += self.distribution(slice(start, start + chunk), temperature=1.0).probs.sum(0)
        return total_V / tokens


@dataclass(frozen=True)
class BestTokens:
    """The teacher's K best tokens, as stored in a knowledge cache; all other tokens form one group.

    Attributes:
        ids_MK: int64 ids, all different within a row, the best first.
        log_probs_MG: logarithms of their probabilities at the temperature of the loss; the last column is the
            logarithm of the probability of all other tokens together.
    """

    ids_MK: Tensor
    log_probs_MG: Tensor

    def pull(self, rows: slice, divergence: Divergence, student: Distribution) -> Pull:
        """See `TeacherTokens.pull`."""
        ids_CK = self.ids_MK[rows]
        teacher_dist = Distribution.of_logs(self.log_probs_MG[rows].to(student.scores.dtype).clamp_min(LOG_ZERO))
        rest_C1, log_rest_C1 = _rest(student, ids_CK)
        log_sums_C1 = student.log_sums
        log_q_CK = student.scores.gather(1, ids_CK) - log_sums_C1
        own = Distribution.of_logs(torch.cat([log_q_CK, log_rest_C1 - log_sums_C1], dim=1).clamp_min_(LOG_ZERO))
        value_C, slope = divergence.compare(teacher_dist, own)
        slope_CG = slope.values * slope.factor
        return Pull(
            value_C,
            slope_CG[:, -1:] * student.sums / rest_C1.clamp_min(_LEAST) - slope.total,
            teacher_dist,
            ids_CK=ids_CK,
            values_CK=slope_CG[:, :-1] - own.probs[:, :-1] * slope.total,
        )

    def best(self, rows: slice, k: int, teacher_dist: Distribution) -> tuple[Tensor, Tensor]:
        """See `TeacherTokens.best`."""
        return self.ids_MK[rows, :k], teacher_dist.logs[:, :k]

    def scores_of(self, rows: slice, ids_CK: Tensor, teacher_dist: Distribution) -> Tensor:
        """See `TeacherTokens.scores_of`. A token outside the K best tokens is less probable than all of them."""
        same_CKK = ids_CK[:, :, None] == self.ids_MK[rows][:, None, :]
        known_CKK = torch.where(same_CKK, teacher_dist.logs[:, None, :-1], LOG_ZERO)
        return known_CKK.amax(2)


def _rest(student: Distribution, ids_CK: Tensor) -> tuple[Tensor, Tensor]:
    """Set the exponentials of `ids` to 0; return the sum of all others and its logarithm, [C, 1] each.

    If the sum underflows to 0, the logarithm is computed from the scores. Whether this happens is read on a CPU only,
    where it saves a pass over the scores: a GPU would have to be waited for.
    """
    rest_C1 = student.take_out(ids_CK)
    log_rest_C1 = rest_C1.log()
    if rest_C1.device.type != "cpu" or bool((rest_C1 == 0.0).any()):
        log_rest_C1 = torch.where(rest_C1 == 0.0, _log_sum_without(student.scores, ids_CK), log_rest_C1)
    return rest_C1, log_rest_C1


def _log_sum_without(scores_CV: Tensor, ids_CK: Tensor) -> Tensor:
    """Return the logarithm of the sum of the exponentials of all scores but those of `ids`, [C, 1]."""
    taken_CK = scores_CV.gather(1, ids_CK)
    log_sum_C1 = scores_CV.scatter_(1, ids_CK, -math.inf).logsumexp(1, keepdim=True)
    scores_CV.scatter_(1, ids_CK, taken_CK)
    return log_sum_C1


@dataclass(frozen=True)
class WordKDLoss:
    """Losses on the output distribution of one batch, for `projected_loss`.

    The sums are: the whole loss; then the negative log-likelihood of the targets, scale(T) times the divergence (plus
    the ranking loss), KL(q || r), and the number of selected tokens. Only the first sum is trained on, the others are
    reported.

    Attributes:
        targets_M: int64 ids.
        epsilon: label smoothing of the cross entropy.
        alpha: share of the divergence; the rest is cross entropy.
        has_references: whether the targets are references; otherwise the cross entropy is left out.
        divergence: divergence between p and q.
        teacher: the teacher's distributions for the tokens, at `temperature`.
        temperature: T.
        taught_M: bool, tokens for which the divergence is computed; None for all.
        min_confidence: lower bound of the probability that the teacher gives to its best token, at `temperature`; the
            divergence is computed for such tokens only.
        max_entropy: upper bound in nats of the teacher's entropy, at `temperature`; the divergence is computed for such
            tokens only. It is the entropy over groups if the teacher's distribution is known by groups.
        log_marginal_V: log r.
        ranking: K of the ranking loss that is added to the divergence (`top1_ranking`), 0 for none.
        weights_M: factor of each token in all sums; None for 1.
        mutual_information: mu. A positive value lowers an upper bound of the student's mutual information between
            source and target: for any r, E KL(q || r) >= I(X; Y) (Alemi et al. 2017, section 3, with r as the marginal
            of the bound).
    """

    targets_M: Tensor
    epsilon: float
    alpha: float
    divergence: Divergence
    teacher: TeacherTokens
    temperature: float = 1.0
    has_references: bool = True
    taught_M: Tensor | None = None
    min_confidence: float = 0.0
    max_entropy: float = math.inf
    ranking: int = 0
    log_marginal_V: Tensor | None = None
    mutual_information: float = 0.0
    weights_M: Tensor | None = None
    scratch: Scratch = field(default_factory=Scratch)
    in_place: bool = False

    def with_kernels(self, kernels: ModuleType) -> ChunkLoss | None:
        """See `ChunkLoss.with_kernels`. There are kernels for KL(p || q) and for the cross entropy of p and q.

        They do not compute the ranking loss and KL(q || r), and if the whole distribution of the teacher is given, they
        take one teacher and no bounds of its confidence and entropy. None of them is used on a device on which their
        trial fails.
        """
        if self.ranking or self.mutual_information or self.divergence.function not in (kl, cross_entropy):
            return None
        if not fused.distils(self.targets_M.device):
            return None
        if isinstance(self.teacher, BestTokens):
            return WordKDKernel(self, self.teacher, kernels)
        bounded = self.min_confidence > 0.0 or self.max_entropy < math.inf
        if not isinstance(self.teacher, WholeDistribution) or len(self.teacher.features) > 1 or bounded:
            return None
        return WordKDKernel(self, self.teacher, kernels)

    def chunk(self, rows: slice, logits_CV: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """See `ChunkLoss.chunk`."""
        own = Distribution.of_logits(logits_CV, out=self.scratch("exponentials", logits_CV))
        soft = own if self.temperature == 1.0 else Distribution.of_logits(own.scores / self.temperature)
        information_C, information_CV = self._information(own)
        pull = self.teacher.pull(rows, self.divergence, soft)
        nll_C, smooth_C = self._cross_entropy(rows, own)
        ranking_C, ranked_ids, ranked_slopes = self._ranking(rows, own, pull.teacher_dist)
        taught_C = self._taught(rows, pull)
        value_C = (pull.value_C * self.divergence.scale(self.temperature) + ranking_C) * taught_C
        total_C = self._share(taught_C) * smooth_C + self.alpha * value_C + self.mutual_information * information_C
        weights_C = None if self.weights_M is None else self.weights_M[rows]
        sums = torch.stack(
            [weighted_sum(each, weights_C) for each in (total_C, nll_C, value_C, information_C, taught_C)]
        )
        if not gradient:
            return sums, None
        gradient_CV = self._gradient(rows, own, soft, pull, taught_C, ranked_ids, ranked_slopes)
        if information_CV is not None:
            gradient_CV.add_(information_CV, alpha=self.mutual_information)
        return sums, gradient_CV if weights_C is None else gradient_CV.mul_(weights_C[:, None])

    def _gradient(
        self,
        rows: slice,
        own: Distribution,
        soft: Distribution,
        pull: Pull,
        taught_C: Tensor,
        ranked_ids: Tensor,
        ranked_slopes: Tensor,
    ) -> Tensor:
        """Return the gradient of cross entropy, divergence and ranking, without the uniform part.

        It is written to the memory of `soft.exps`.
        """
        weight_C1, share_C1 = (self.alpha * taught_C)[:, None], self._share(taught_C)[:, None]
        own_C1 = share_C1 - weight_C1 * ranked_slopes.sum(1, keepdim=True)  # coefficient of q
        scale = self.divergence.scale(self.temperature) / self.temperature
        gradient_CV = _pulled(pull, weight_C1 * scale, soft, own_C1 if soft is own else None)
        if soft is not own:
            gradient_CV.addcmul_(own.exps, own_C1 / own.sums)
        gradient_CV.scatter_add_(1, ranked_ids, ranked_slopes * weight_C1)
        each = self._each(gradient_CV.size(1))
        if self._selects and each:  # `uniform` assumes the smallest share for all tokens
            gradient_CV.sub_((share_C1 - self._least_share) * each)
        return gradient_CV.scatter_add_(1, self.targets_M[rows][:, None], share_C1 * -(1.0 - self.epsilon - each))

    @property
    def _selects(self) -> bool:
        return self.taught_M is not None or self.min_confidence > 0.0 or self.max_entropy < math.inf

    @property
    def _least_share(self) -> float:
        """Share of the cross entropy for tokens that have a divergence."""
        return 1.0 - self.alpha if self.has_references else 0.0

    def _share(self, taught_C: Tensor) -> Tensor:
        """Return the share of the cross entropy for each token: [C]."""
        return 1.0 - self.alpha * taught_C if self.has_references else torch.zeros_like(taught_C)

    def _taught(self, rows: slice, pull: Pull) -> Tensor:
        """Return 1 for a token for which the divergence is computed, else 0: [C].

        The entropy over groups is at most the entropy over the tokens.
        """
        taught_C = torch.ones_like(pull.value_C)
        if self.min_confidence > 0.0:
            taught_C *= pull.confidence_C() >= self.min_confidence
        if self.max_entropy < math.inf:
            taught_C *= pull.teacher_dist.entropy() <= self.max_entropy
        if self.taught_M is not None:
            taught_C *= self.taught_M[rows]
        return taught_C

    def _each(self, vocab_size: int) -> float:
        """Return the probability that label smoothing gives to every token."""
        return share_of_others(self.epsilon, vocab_size)

    def uniform(self, vocab_size: int) -> float:
        """See `ChunkLoss.uniform`: the part of the gradient of the smoothed cross entropy that all columns share."""
        return -self._least_share * self._each(vocab_size)

    def _cross_entropy(self, rows: slice, own: Distribution) -> tuple[Tensor, Tensor]:
        """Return the negative log-likelihood, and the loss with label smoothing: [C] each."""
        vocab_size = own.scores.size(1)
        each, log_sums_C = self._each(vocab_size), own.log_sums[:, 0]
        nll_C = log_sums_C - own.scores.gather(1, self.targets_M[rows][:, None])[:, 0]
        return nll_C, (1.0 - self.epsilon - each) * nll_C + each * (vocab_size * log_sums_C - own.scores.sum(1))

    def _information(self, own: Distribution) -> tuple[Tensor, Tensor | None]:
        """Return KL(q || r) and its gradient with respect to the logits, which is q (log q - log r - KL).

        The gradient is None if the settings do not use this term.
        """
        if self.log_marginal_V is None or not self.mutual_information:
            return torch.zeros_like(own.sums[:, 0]), None
        ratio_CV = own.logs - self.log_marginal_V
        value_C = (ratio_CV * own.probs).sum(1)
        return value_C, ratio_CV.sub_(value_C[:, None]).mul_(own.probs)

    def _ranking(self, rows: slice, own: Distribution, teacher_dist: Distribution) -> tuple[Tensor, Tensor, Tensor]:
        """Return `top1_ranking` of the tokens; without a ranking loss, 0 [C], ids [C, 0] and slopes [C, 0].

        Only the scores of the student's distribution are read, since `pull` may have set exponentials to 0.
        """
        if not self.ranking:
            nothing_C0 = own.scores[:, :0]
            return nothing_C0.sum(1), nothing_C0.long(), nothing_C0
        ids_CK, theirs_CK = self.teacher.best(rows, self.ranking, teacher_dist)
        first = own.scores.topk(self.ranking, dim=1)
        above_CKK = theirs_CK[:, :, None] > self.teacher.scores_of(rows, first.indices, teacher_dist)[:, None, :]
        q_theirs_CK, q_own_CK = (
            (scores_CK - own.log_sums).exp() for scores_CK in (own.scores.gather(1, ids_CK), first.values)
        )
        return top1_ranking(ids_CK, first.indices, q_theirs_CK, q_own_CK, above_CKK)


@dataclass(frozen=True)
class WordKDKernel:
    """Compute a `WordKDLoss` by a Triton kernel, for `projected_loss`.

    Attributes:
        loss: loss for which there is a kernel (`WordKDLoss.with_kernels`).
        teacher: its teacher.
        kernels: `kdmt.losses.triton_kernels`.
    """

    loss: WordKDLoss
    teacher: WholeDistribution | BestTokens
    kernels: ModuleType
    in_place: bool = True

    @property
    def weights_M(self) -> Tensor | None:
        return self.loss.weights_M

    def with_kernels(self, kernels: ModuleType) -> WordKDKernel:  # noqa: ARG002
        """See `ChunkLoss.with_kernels`."""
        return self

    def uniform(self, vocab_size: int) -> float:  # noqa: ARG002
        """See `ChunkLoss.uniform`: the kernel computes the whole gradient."""
        return 0.0

    def chunk(self, rows: slice, logits_CV: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """See `ChunkLoss.chunk`."""
        loss, kernels, each = self.loss, self.kernels, share_of_others(self.loss.epsilon, logits_CV.size(1))
        settings = kernels.WordKD(
            temperature=loss.temperature,
            alpha=loss.alpha,
            scale=loss.divergence.scale(loss.temperature),
            has_references=loss.has_references,
            minus_entropy=loss.divergence.function is kl,
            target_share=1.0 - loss.epsilon - each,
            each=each,
        )
        taught_C, weights_C = self._taught(rows), None if loss.weights_M is None else loss.weights_M[rows]
        shared = loss.targets_M[rows], taught_C, weights_C, settings
        if isinstance(self.teacher, WholeDistribution):
            sums_4C = kernels.whole_distribution_(logits_CV, self.teacher.logits(rows), *shared, gradient=gradient)
        else:
            best = self.teacher.ids_MK[rows], self.teacher.log_probs_MG[rows]
            sums_4C = kernels.best_tokens_(logits_CV, *best, *shared, log_zero=LOG_ZERO, gradient=gradient)
        total, nll, value, taught = sums_4C.sum(1)
        return torch.stack([total, nll, value, torch.zeros_like(total), taught]), logits_CV if gradient else None

    def _taught(self, rows: slice) -> Tensor | None:
        """Return 1 for a token for which the divergence is computed, else 0, [C]; None for 1 everywhere."""
        loss, taught_C = self.loss, None if self.loss.taught_M is None else self.loss.taught_M[rows].float()
        if not isinstance(self.teacher, BestTokens) or not (loss.min_confidence > 0.0 or loss.max_entropy < math.inf):
            return taught_C
        teacher_dist = Distribution.of_logs(self.teacher.log_probs_MG[rows].float().clamp_min(LOG_ZERO))
        nothing = Pull(teacher_dist.confidence(), teacher_dist.sums, teacher_dist, ids_CK=self.teacher.ids_MK[rows])
        return loss._taught(rows, nothing)


def _pulled(pull: Pull, weight_C1: Tensor, soft: Distribution, own_C1: Tensor | None) -> Tensor:
    """Return the gradient of the divergence times `weight_C1`, plus q times `own_C1`, in the memory of `soft.exps`."""
    more_C1 = torch.zeros_like(weight_C1) if own_C1 is None else own_C1
    gradient_CV = soft.exps.mul_((pull.coefficient_C1 * weight_C1 + more_C1) / soft.sums)
    if pull.slope is not None:
        return gradient_CV.addcmul_(pull.slope.values, weight_C1 * pull.slope.factor)
    assert pull.ids_CK is not None
    assert pull.values_CK is not None
    own_CK = soft.scores.gather(1, pull.ids_CK).exp_() / soft.sums
    return gradient_CV.scatter_(1, pull.ids_CK, pull.values_CK * weight_C1 + own_CK * more_C1)
