"""Directions of a multilingual student that learn from the teacher: those in which the teacher is better.

A direction is distilled while nll_student > nll_teacher - margin, where both are mean negative log-likelihoods of the
validation targets of the direction, in nats per token. This is the rule of Tan et al. (2019, algorithm 1), who compare
BLEU: a direction is distilled while that of the student is less than that of its teacher plus a threshold (1 in their
code, RayeRen/multilingual-kd-pytorch). The other directions have the cross entropy with its full weight, as there. The
rule is applied after each scheduled validation; before the first one, all directions are distilled.

Shapes: P training pairs, K directions, B batch, T target length, M target tokens where the loss is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdmt.objectives.objective import Prepared

PREFIX = "nll_"  # of the name of a direction in the figures of a validation
STATE = "word_kd_"  # of the name of a direction in the log: 1 while it is distilled, else 0


@dataclass
class DirectionSelection:
    """Directions for which a divergence from the teacher is computed.

    Attributes:
        names: names of the directions.
        direction_P: index in `names` of the direction of each training pair, int16 [P].
        margin: number of nats per token by which the student must be better for its direction not to be distilled.
        teacher_nll: validation figure of the teacher for each direction, in nats per token.
        is_taught_K: bool, directions that are distilled.
    """

    names: Sequence[str]
    direction_P: NDArray[np.int16]
    margin: float
    teacher_nll: Mapping[str, float] = field(default_factory=dict)
    is_taught_K: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.is_taught_K = torch.ones(len(self.names), dtype=torch.bool)

    @property
    def is_any_taught(self) -> bool:
        """Whether a direction is distilled."""
        return bool(self.is_taught_K.any())

    def taught_M(self, prepared: Prepared) -> Tensor | None:
        """Return the target tokens of directions that are distilled, bool [M]; None if all directions are."""
        if bool(self.is_taught_K.all()):
            return None
        number_B = torch.from_numpy(self.direction_P[prepared.batch.on_host.index_B.numpy()]).long()
        tgt_tokens_BT = prepared.tgt_tokens_BT
        taught_B = self.is_taught_K[number_B].to(tgt_tokens_BT.device, non_blocking=True)
        return prepared.pick(taught_B[:, None].expand_as(tgt_tokens_BT))

    def after_validation(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Choose the directions by the figures of a validation; return their states for the log.

        Args:
            figures: figures with `nll_<direction>` of the student for each direction.
        """
        taught = [figures[f"{PREFIX}{name}"] > self.teacher_nll[name] - self.margin for name in self.names]
        self.is_taught_K = torch.tensor(taught, dtype=torch.bool)
        return {f"{STATE}{name}": float(is_taught) for name, is_taught in zip(self.names, taught, strict=True)}

    def memory(self) -> Tensor:
        """Return the directions that are distilled for a checkpoint, uint8 [K]."""
        return self.is_taught_K.to(torch.uint8)

    def remember(self, memory: Tensor) -> None:
        """Restore the directions from what `memory` returned."""
        self.is_taught_K = memory.cpu().bool()


def describe_states(states: Mapping[str, float]) -> str:
    """Return a line of text on the directions that are distilled."""
    on = [name.removeprefix(STATE) for name, state in states.items() if state]
    off = [name.removeprefix(STATE) for name, state in states.items() if not state]
    return f"distilled directions: {', '.join(on) or 'none'}; not distilled: {', '.join(off) or 'none'}"
