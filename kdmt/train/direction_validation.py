"""Validation by direction: the mean negative log-likelihood of the targets of each direction, in nats per token.

Shapes: P validation pairs, M target tokens of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdmt.choices import TeacherWeights
from kdmt.errors import UserError
from kdmt.losses.cross_entropy import chunk_size, token_nll
from kdmt.losses.word_kd import WholeDistribution
from kdmt.objectives.distillation import mean_distribution
from kdmt.objectives.objective import Objective, Prepared, TokenPass
from kdmt.ranks import ALONE, Ranks
from kdmt.train.data import TrainingData
from kdmt.train.direction_sampling import PairDirections


@dataclass(frozen=True)
class DirectionValidation:
    """The validation set with the direction of each pair.

    Attributes:
        data: validation set.
        batches: its batches.
        directions: direction of each pair.
    """

    data: TrainingData
    batches: Sequence[np.ndarray]
    directions: PairDirections

    def of_student(self, objective: Objective, *, device: torch.device, ranks: Ranks = ALONE) -> dict[str, float]:
        """Return direction -> figure of the student of an objective in evaluation mode."""

        def nll(prepared: Prepared) -> Tensor:
            student = next(iter(objective.view.passes(objective.model, prepared, frozenset(), objective.precision)))
            assert isinstance(student, TokenPass)
            targets_M = prepared.pick(prepared.tgt_tokens_BT)
            weight_VD = student.model.output_weight_VD
            return token_nll(student.features_MD, weight_VD, targets_M, product_type=student.product_type)

        return self._means(objective, nll, device, ranks)

    def of_teachers(
        self, objective: Objective, *, weights: TeacherWeights, device: torch.device, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        """Return direction -> figure of the mean distribution of the teachers of an objective.

        Args:
            weights: value of `word_kd.teacher_weights`.
        """

        def nll(prepared: Prepared) -> Tensor:
            passes = objective.teachers.read(objective.view, prepared, frozenset(), objective.precision)
            found = [each for each in passes if isinstance(each, TokenPass)]
            mixture = mean_distribution(found, prepared, weights=weights)
            return distribution_nll(mixture, prepared.pick(prepared.tgt_tokens_BT))

        return self._means(objective, nll, device, ranks)

    @torch.inference_mode()
    def _means(
        self, objective: Objective, nll: Callable[[Prepared], Tensor], device: torch.device, ranks: Ranks
    ) -> dict[str, float]:
        names = self.directions.names
        sums, counts = (torch.zeros(len(names), dtype=torch.float64, device=device) for _ in range(2))
        for indices in self.batches[ranks.rank :: ranks.world]:
            prepared = objective.prepare(self.data.load(indices).to(device))
            number_B = torch.from_numpy(self.directions.direction_P[indices]).long().to(device)
            number_M = prepared.pick(number_B[:, None].expand_as(prepared.tgt_tokens_BT))
            nll_M = nll(prepared).double()
            sums.index_add_(0, number_M, nll_M)
            counts.index_add_(0, number_M, torch.ones_like(nll_M))
        totals, whole = ranks.sum(sums.tolist()), ranks.sum(counts.tolist())
        for name, count in zip(names, whole, strict=True):
            if not count:
                raise UserError(f"validation set: {name} has no pair within the size limits of 'train'")
        return {name: total / count for name, total, count in zip(names, totals, whole, strict=True)}


def distribution_nll(distribution: WholeDistribution, targets_M: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target token under the mean distribution of teachers, [M]."""
    chunk, found = chunk_size(targets_M.device), []
    for start in range(0, len(targets_M), chunk):
        rows = slice(start, start + chunk)
        found.append(-distribution.distribution(rows).logs.gather(1, targets_M[rows][:, None])[:, 0])
    return torch.cat(found)
