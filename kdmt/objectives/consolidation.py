"""Elastic weight consolidation: a term that keeps a model near the weights from which its training began.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks"; Thompson et al. 2019 have it for the
adaptation of translation models to a domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdmt.corpus.batching import Batch
from kdmt.models.transformer import Transformer
from kdmt.objectives.objective import CrossEntropy, LeftToRight, Objective, Pass, Prepared, Term


@dataclass(frozen=True)
class Anchor:
    """Weights from which a training began, and how much the likelihood of earlier text depends on each.

    Attributes:
        weights: value of each parameter, by its name in the model.
        fisher: diagonal of the Fisher information (`fisher_diagonal`), with the same names and shapes.
    """

    weights: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]


class ElasticConsolidation(Term[Pass]):
    """Half of the sum of F_i (w_i - a_i)^2 over all parameters w, `ewc`: a are the anchor's weights, F its Fisher.

    It does not depend on the batch, and is counted once for each. Without an anchor it cannot be computed.

    Args:
        weight: weight in the loss.
    """

    def __init__(self, *, weight: float) -> None:
        super().__init__()
        self.weights = {"ewc": weight}
        self.names: list[str] = []

    def use(self, anchor: Anchor) -> None:
        """Set the anchor."""
        self.names = list(anchor.weights)
        for number, name in enumerate(self.names):
            self.register_buffer(f"anchor_{number}", anchor.weights[name], persistent=False)
            self.register_buffer(f"fisher_{number}", anchor.fisher[name], persistent=False)

    def counts(self, prepared: Prepared) -> dict[str, float]:  # noqa: ARG002
        """See `Term.counts`."""
        return {"ewc": 1.0}

    def forward(self, student: Pass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        parameters = dict(student.model.named_parameters())
        parts = []
        for number, name in enumerate(self.names):
            away = parameters[name] - self.get_buffer(f"anchor_{number}")
            parts.append((self.get_buffer(f"fisher_{number}") * away.square()).sum())
        return {"ewc": 0.5 * torch.stack(parts).sum()}


def fisher_diagonal(model: Transformer, pairs: Iterable[Batch]) -> dict[str, Tensor]:
    """Return the diagonal of the empirical Fisher information: by parameter name, in its shape.

    It is the mean, over the pairs, of the squared gradient of log p(target | source), without dropout.

    Args:
        model: autoregressive model in evaluation mode.
        pairs: batches of one sentence pair each, at least one, on the device of the model.
    """
    objective = Objective(model, LeftToRight(), [CrossEntropy(label_smoothing=0.0)]).eval()
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(each) for name, each in parameters.items()}
    count = 0
    for batch in pairs:
        loss = objective(objective.prepare(batch))["loss"].sum
        for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            sums[name].addcmul_(gradient, gradient)
        count += 1
    return {name: total / count for name, total in sums.items()}
