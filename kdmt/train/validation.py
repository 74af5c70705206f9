"""The validation loss of an objective over a fixed set of batches, and its dependence on visible words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kdmt.errors import UserError
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives.objective import EVALUATED, Objective, Pass, Prepared, cross_entropy_of
from kdmt.objectives.positional import draw_ranks, fill, hide_last
from kdmt.ranks import ALONE, Ranks
from kdmt.train.data import TrainingData

VISIBLE = (10, 30, 50, 70, 90, 100)  # percentages of the words of a target at which hidden words are predicted


@torch.inference_mode()
def validation_loss(
    objective: Objective,
    data: TrainingData,
    batches: Sequence[np.ndarray],
    *,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Return `loss` and `nll` in nats per token: sums over all batches of all ranks, divided once by the counts.

    Args:
        objective: objective in evaluation mode.

    Raises:
        UserError: if a count is zero.
    """
    sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in EVALUATED}
    counts = dict.fromkeys(EVALUATED, 0.0)
    for indices in batches[ranks.rank :: ranks.world]:
        terms = objective(objective.prepare(data.load(indices).to(device)))
        for name in EVALUATED:
            sums[name] += terms[name].sum.detach()  # on the device: the host does not wait for each batch
            counts[name] += terms[name].count
    totals, whole = ranks.sum(torch.stack([*sums.values()]).tolist()), ranks.sum(list(counts.values()))
    if not all(whole):
        raise UserError("validation set: no target has an alignment ('nat.upsample' is too small), or none has a word")
    return {name: total / count for name, total, count in zip(sums, totals, whole, strict=True)}


@torch.inference_mode()
def visible_nll(
    objective: Objective,
    data: TrainingData,
    batches: Sequence[np.ndarray],
    *,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Return the mean negative log-likelihood of hidden words, in nats per word, at each percentage of visible words.

    A student that does not use the visible words has the same figure at all percentages. See `hide_last` for the number
    of hidden words and `draw_ranks` for their choice: a word that is visible at a percentage is visible at all higher
    ones. At 100 one word of each sentence is hidden.

    Args:
        objective: objective in evaluation mode, of a model that predicts the hidden words of a target.

    Returns:
        `nll_visible_10`, ..., `nll_visible_100`.
    """
    model = objective.model
    assert isinstance(model, NATransformer)
    sums = torch.zeros(len(VISIBLE), dtype=torch.float64, device=device)
    counts = [0.0] * len(VISIBLE)
    for indices in batches[ranks.rank :: ranks.world]:
        prepared = Prepared.of(data.load(indices).to(device))
        ranks_BT = draw_ranks(prepared.batch, indices.tolist())
        before: Pass | None = None
        for number, percentage in enumerate(VISIBLE):
            shown = hide_last(prepared, ranks_BT, visible=percentage / 100)
            student = fill(model, shown, frozenset(), objective.precision, before=before)
            before = student  # the encoder runs once
            sums[number] += cross_entropy_of(student, student.features_MD, 0.0)[1]
            counts[number] += shown.count
    totals, whole = ranks.sum(sums.tolist()), ranks.sum(counts)
    named = zip(VISIBLE, totals, whole, strict=True)
    return {f"nll_visible_{percentage}": total / (count or 1.0) for percentage, total, count in named}
