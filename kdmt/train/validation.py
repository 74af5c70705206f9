"""The validation loss of an objective over a fixed set of batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kdmt.errors import UserError
from kdmt.objectives.objective import EVALUATED, Objective
from kdmt.ranks import ALONE, Ranks
from kdmt.train.data import TrainingData


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
