"""Objectives: modules that hold the models, run them and call the losses. They are what a parallel wrapper wraps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdmt.losses.cross_entropy import projected_cross_entropy
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import EncoderOutput, Trace, Transformer
from kdmt.types import Batch, LossTerm, LossTerms, Precision


class Objective(nn.Module, ABC):
    """A module whose forward pass gives named sums, each with the count that it is to be divided by.

    Counts are known from the batch alone: the loop adds them over all micro-batches of an update before the first
    forward pass and divides each term once. The names of the terms are known before any batch. In evaluation mode the
    terms are those of `CrossEntropyObjective`, whatever is trained on, so that validation losses can be compared.
    """

    model: Transformer
    terms: tuple[str, ...]
    precision: Precision = "float32"

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, float]:
        """What each term of this batch is to be divided by."""

    def use(self, precision: Precision) -> None:
        """Compute in this precision from now on."""
        self.precision = precision

    @property
    def product_type(self) -> torch.dtype | None:
        """Of the products with the vocabulary; None for that of the parameters."""
        return product_type(self.precision)

    def autocast(self, batch: Batch, precision: Precision | None = None) -> torch.autocast:
        """Of a model's pass over a batch."""
        return self.autocast_on(batch.src_tokens_BS.device, precision)

    def autocast_on(self, device: torch.device, precision: Precision | None = None) -> torch.autocast:
        """The same for what runs on a device."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=(precision or self.precision) == "bf16")

    def prepare(self, batch: Batch) -> Batch:
        """What is trained on in a batch's place; called before its counts are asked for."""
        return batch

    def before_update(self, update: int) -> None:
        """Told before each update how many are done: weights may follow a schedule."""

    def after_update(self) -> None:
        """Told after each step of the optimiser: a teacher may follow its student."""

    def trained(self) -> dict[str, nn.Parameter]:
        """What the optimiser moves, by name: the model's parameters, then those beside it under `objective.`."""
        own = {
            f"objective.{name}": parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and not name.startswith("model.")
        }
        return {**dict(self.model.named_parameters()), **own}

    def clipped_together(self) -> list[list[nn.Parameter]]:
        """Parameters in groups, each with a gradient norm of its own."""
        return [list(self.trained().values())]

    def moving(self) -> dict[str, Tensor]:
        """Tensors beside the model, the same on every rank, that change during training: a checkpoint keeps them."""
        return {name: parameter for name, parameter in self.trained().items() if name.startswith("objective.")}

    def memory(self) -> dict[str, Tensor]:
        """What this rank remembers of its batches, for a checkpoint; of any shape."""
        return {}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Take up what `memory` gave."""


class CrossEntropyObjective(Objective):
    """Label-smoothed cross entropy with the target tokens; `nll` is reported beside it and not trained on."""

    terms: tuple[str, ...] = ("loss", "nll")

    def __init__(self, model: Transformer, *, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def counts(self, batch: Batch) -> dict[str, float]:
        return dict.fromkeys(self.terms, batch.target_count)

    def forward(self, batch: Batch) -> LossTerms:
        return self.cross_entropy(batch, self.features(self.model, batch))

    def features(self, model: Transformer, batch: Batch) -> Tensor:
        """A model's decoder features of the real target tokens: [M, D]."""
        return self.read(model, batch)[0]

    def read(
        self,
        model: Transformer,
        batch: Batch,
        trace: Trace | None = None,
        precision: Precision | None = None,
        encoded: EncoderOutput | None = None,
    ) -> tuple[Tensor, EncoderOutput]:
        """A model's decoder features of the real target tokens, [M, D], and what its encoder made of the source.

        Args:
            precision: of the pass, by default the objective's.
            encoded: what its encoder made of it before.
        """
        prev_tokens_BT, _ = _targets(batch)
        with self.autocast(batch, precision):
            encoded = encoded or model.encode(batch.src_tokens_BS, trace)
            if isinstance(model, NATransformer):
                seen_BT = prev_tokens_BT if batch.seen_BT is None else batch.seen_BT
                features_BTD = model.fill(batch.src_tokens_BS, seen_BT, encoded, trace)
            else:
                features_BTD = model.decode(prev_tokens_BT, encoded, trace)
        return _real(features_BTD, batch, pad=model.pad), encoded

    def real(self, values_BTx: Tensor, batch: Batch) -> Tensor:
        """What stands at the real target tokens: [M, ...]."""
        return _real(values_BTx, batch, pad=self.model.pad)

    def targets(self, batch: Batch) -> Tensor:
        """The real target tokens: [M]."""
        return _real(_targets(batch)[1], batch, pad=self.model.pad)

    def weights(self, batch: Batch) -> Tensor | None:
        """How much each real target token counts, [M], None for 1."""
        if batch.weight_B is None:
            return None
        weight_B = batch.weight_B.to(self.model.output_weight_VD.dtype)
        return _real(weight_B[:, None].expand_as(_targets(batch)[1]), batch, pad=self.model.pad)

    def cross_entropy(self, batch: Batch, features_MD: Tensor, model: Transformer | None = None) -> LossTerms:
        """The terms from the features of a model, by default the one that is trained."""
        loss_sum, nll_sum = projected_cross_entropy(
            features_MD,
            (model or self.model).output_weight_VD,
            self.targets(batch),
            epsilon=self.label_smoothing,
            weights_M=self.weights(batch),
            product_type=self.product_type,
        )
        return {
            "loss": LossTerm(sum=loss_sum, count=batch.target_count),
            "nll": LossTerm(sum=nll_sum, count=batch.target_count, weight=0.0),
        }


def product_type(precision: Precision) -> torch.dtype | None:
    """Of the products with the vocabulary; None for that of the parameters."""
    return None if precision == "float32" else torch.bfloat16


def _targets(batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.prev_tokens_BT is None or batch.tgt_tokens_BT is None:
        raise ValueError("an objective needs a batch with targets")
    return batch.prev_tokens_BT, batch.tgt_tokens_BT


def _real(values_BTx: Tensor, batch: Batch, *, pad: int) -> Tensor:
    """What stands at the real target tokens, [M, ...].

    How many there are is known, so that a GPU is not asked and does not make the host wait.
    """
    tgt_tokens_BT = _targets(batch)[1]
    real_M = tgt_tokens_BT.ne(pad).flatten().nonzero_static(size=batch.num_tgt_tokens)[:, 0]
    return values_BTx.flatten(0, 1).index_select(0, real_M)
