"""Terms for students that were trained by likelihood before: similarity of n-grams, and convex losses.

The formulas are in `kdmt.losses.ngram_matching` and `kdmt.losses.convex`.

Shapes: B batch, T target length, M target tokens where the loss is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdmt.choices import LossAverage
from kdmt.config import NAT
from kdmt.losses.convex import convex_loss, convex_weights
from kdmt.losses.cross_entropy import projected_cross_entropy, share_of_others, token_nll, weighted_sum
from kdmt.objectives.aligned import AlignedPass, AlignedPrepared, Alignment, AlignmentLikelihood, Words
from kdmt.objectives.objective import Pass, Prepared, Term, TokenPass


class NgramSimilarity(Term[AlignedPass]):
    """One minus the similarity of the expected n-grams of the output to those of the target, 0 to 1, `loss`.

    The sum is divided by the number of sentences whose targets have an n-gram. `nll` and `impossible` are reported for
    comparison with `AlignmentLikelihood`; a target without an alignment is part of `loss`.

    Args:
        order: number of tokens of an n-gram.
        deep_supervision: weight of `deep`, the mean of the loss over the lower layers of the decoder; 0 for none.
    """

    def __init__(self, alignment: Alignment, *, order: int, deep_supervision: float = 0.0) -> None:
        super().__init__()
        self.alignment, self.order = alignment, order
        self.weights = {"loss": 1.0, "nll": 0.0, "impossible": 0.0}
        if deep_supervision:
            self.weights["deep"] = deep_supervision

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: sentences for `loss` and `deep`, words of the targets with an alignment for `nll`."""
        assert isinstance(prepared, AlignedPrepared)
        sentences = float(self._counted(Words.of(prepared.batch.on_host)).sum())
        counts = dict.fromkeys(self.weights, sentences)
        return counts | {"nll": prepared.num_words, "impossible": len(prepared.alignable_B)}

    def _counted(self, words: Words) -> Tensor:
        """Return which targets have an n-gram, bool [B]."""
        return (words.lengths_B > 0) & (words.lengths_B + self.alignment.frame >= self.order)

    def forward(self, student: AlignedPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        assert isinstance(prepared, AlignedPrepared)
        counted_B = self._counted(prepared.words)
        found = [self.alignment.similarity(each, prepared.words, self.order) for each in student.readings]
        sums = [torch.where(counted_B, 1.0 - each, 0.0).sum() for each in found]
        with torch.no_grad():
            likelihood_B = self.alignment.log_likelihood(student.readings[-1], prepared.words)
        possible_B = prepared.alignable_B & (likelihood_B > -torch.inf)
        nll = -torch.where(possible_B, likelihood_B, 0.0).sum()
        terms = {"loss": sums[-1], "nll": nll, "impossible": (~possible_B).sum()}
        return {**terms, "deep": torch.stack(sums[:-1]).mean()} if len(sums) > 1 else terms


class ConvexLikelihood(AlignmentLikelihood):
    """Convex function of the likelihood of the target over all its alignments, `loss`; see `AlignmentLikelihood`.

    The length of a target is its number of words, without </s>.
    """

    def __init__(
        self, alignment: Alignment, *, power: float, deep_supervision: float = 0.0, average: LossAverage = "token"
    ) -> None:
        super().__init__(alignment, deep_supervision=deep_supervision, average=average)
        self.power = power

    def losses(self, log_likelihood_B: Tensor, lengths_B: Tensor) -> Tensor:
        """See `AlignmentLikelihood.losses`."""
        return convex_loss(log_likelihood_B, lengths_B, power=self.power)


class ConvexCrossEntropy(Term[TokenPass]):
    """Convex function of the likelihood of the target tokens of each sentence, `loss`.

    A sentence's likelihood is the product over its tokens where the loss is taken. The probabilities are computed
    first, without a gradient; the gradient is that of the cross entropy, in which each sentence has the weight of
    `convex_weights`. Label smoothing is multiplied by the same weights, as in the authors' code.
    """

    def __init__(self, *, power: float, label_smoothing: float) -> None:
        super().__init__()
        self.power, self.label_smoothing = power, label_smoothing
        self.weights = {"loss": 1.0, "nll": 0.0}

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`."""
        return dict.fromkeys(self.weights, prepared.count)

    def forward(self, student: TokenPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        loss, nll = convex_loss_of(student, student.features_MD, power=self.power, label_smoothing=self.label_smoothing)
        return {"loss": loss, "nll": nll}


def convex_loss_of(
    student: TokenPass, features_MD: Tensor, *, power: float, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the summed convex loss and negative log-likelihood of the sentences, from features of the student."""
    shown, weight_VD = student.shown, student.model.output_weight_VD
    targets_M, product_type = shown.pick(shown.tgt_tokens_BT), student.product_type
    nll_M = token_nll(features_MD.detach(), weight_VD.detach(), targets_M, product_type=product_type)
    likelihood_B, lengths_B = -shown.put_back(nll_M).sum(1), shown.keep_BT.sum(1)
    factors_B = convex_weights(likelihood_B, lengths_B, power=power)
    weight_B = shown.batch.extras.weight_B
    if weight_B is not None:
        weight_B = weight_B.to(factors_B.dtype)
        factors_B = factors_B * weight_B
    cross_entropy, weighted_nll = projected_cross_entropy(
        features_MD,
        weight_VD,
        targets_M,
        epsilon=label_smoothing,
        weights_M=shown.pick(factors_B[:, None].expand_as(shown.tgt_tokens_BT)),
        product_type=product_type,
    )
    value = weighted_sum(convex_loss(likelihood_B, lengths_B, power=power), weight_B)
    # the value of the convex loss takes the place of the weighted negative log-likelihood, whose gradient it has
    share = 1.0 - label_smoothing - share_of_others(label_smoothing, len(weight_VD))
    return cross_entropy + share * (value - weighted_nll.detach()), weighted_sum(-likelihood_B, weight_B)


def fine_tuning_term(nat: NAT, likelihood: AlignmentLikelihood, *, convex_power: float | None) -> Term[AlignedPass]:
    """Return the loss of a family whose decoder has more positions than the target.

    Args:
        likelihood: the loss that the family has without settings of fine-tuning.
        convex_power: factor in the convex loss; None for another loss.
    """
    alignment, deep = likelihood.alignment, nat.deep_supervision
    if convex_power is not None:
        return ConvexLikelihood(alignment, power=convex_power, deep_supervision=deep, average=likelihood.average)
    if nat.loss == "likelihood":
        return likelihood
    return NgramSimilarity(alignment, order=nat.ngram, deep_supervision=deep)
