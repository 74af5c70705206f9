"""Validation loss of an objective over a fixed set of batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kdmt.train.loop import TrainingData
from kdmt.train.objectives import Objective


@torch.inference_mode()
def validation_loss(
    objective: Objective, data: TrainingData, batches: Sequence[np.ndarray], *, device: torch.device
) -> dict[str, float]:
    """Each term of the objective in nats a token: sums over all batches divided once."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for indices in batches:
        for name, term in objective(data.load(indices).to(device)).items():
            sums[name] = sums.get(name, 0.0) + float(term.sum.detach())
            counts[name] = counts.get(name, 0) + term.count
    return {name: value / counts[name] for name, value in sums.items()}
