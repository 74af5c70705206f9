"""Glancing training: a student is shown more of the target the more errors it makes (Qian et al. 2021, GLAT).

Shapes: B batch, L decoder positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kdmt.choices import GlancingDistance, GlancingDivisor, GlancingDraw, GlancingReveal, GlancingRounding
from kdmt.config import NAT
from kdmt.objectives.annealing import piecewise_linear
from kdmt.objectives.transfer import copied


@dataclass(frozen=True)
class Glance:
    """Rules of glancing: which positions are shown, and what is shown there.

    Attributes:
        points: (update, ratio) points, linear in between.
        distance: distance between the first output of the student and the reference, which counts its errors.
        draw: `exact` draws ratio * distance positions of each sentence, `bernoulli` draws each position with the
            probability ratio * distance / number of positions.
        rounding: rounding of the number of positions of an `exact` draw.
        reveal: symbol that is shown at a position whose state on the most probable alignment is a blank: the blank, or
            the next word of the target (the last word after the end).
        same_dropout: whether both passes have the same dropout masks.
        divisor: divisor of the loss, which is a sum over the words that are not shown: `predicted` is their number,
            `words` that of all words.
        keep_path: whether the loss of a directed acyclic decoder sums only over the paths through the shown words,
            which are not predicted.
    """

    points: Sequence[tuple[int, float]]
    distance: GlancingDistance = "hamming"
    draw: GlancingDraw = "exact"
    rounding: GlancingRounding = "truncate"
    reveal: GlancingReveal = "state"
    same_dropout: bool = False
    divisor: GlancingDivisor = "words"
    keep_path: bool = False

    @classmethod
    def of(cls, nat: NAT) -> Glance | None:
        """Return the rules that a student's settings request, None for no glancing."""
        if nat.glancing is None:
            return None
        return cls(
            points=nat.glancing,
            distance=nat.distance,
            draw=nat.glancing_draw,
            rounding=nat.glancing_rounding,
            reveal=nat.glancing_reveal,
            same_dropout=nat.glancing_same_dropout,
            divisor=nat.glancing_divisor,
            keep_path=nat.glancing_keep_path,
        )

    def ratio(self, update: int) -> float:
        """Return the number of shown positions per error at an update."""
        return piecewise_linear(update, self.points)

    def shown(self, distance_B: Tensor, keep_BL: Tensor, *, ratio: float) -> Tensor:
        """Draw the positions that are shown, bool [B, L].

        Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps.

        Args:
            distance_B: int64, distance between the first output of the student and the reference.
            keep_BL: bool, positions that may be shown; a sentence has at least as many as its distance.
        """
        if self.draw == "exact":
            return glanced(distance_B, keep_BL, ratio=ratio, rounding=self.rounding)
        return each_drawn(ratio * distance_B / keep_BL.sum(1).clamp_min(1), keep_BL)

    def dropout_state(self, device: torch.device) -> Tensor | None:
        """Return the state from which dropout draws its masks, before the first pass; None for masks of their own."""
        return random_state(device) if self.same_dropout else None


def glanced(distance_B: Tensor, keep_BL: Tensor, *, ratio: float, rounding: GlancingRounding = "truncate") -> Tensor:
    """Draw ratio * distance positions of each sentence, rounded down or to the nearest number (halves up): bool [B, L].

    Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps.

    Args:
        distance_B: int64, distance between the first output of the student and the reference.
        keep_BL: bool, positions that may be shown; a sentence has at least as many as its distance.
    """
    numbers_B = ratio * distance_B
    return drawn((numbers_B if rounding == "truncate" else numbers_B + 0.5).long(), keep_BL)


def drawn(counts_B: Tensor, keep_BL: Tensor) -> Tensor:
    """Draw as many real positions of each sentence as `counts_B` says, bool [B, L]."""
    order_BL = copied(torch.rand(keep_BL.shape), keep_BL.device).masked_fill(~keep_BL, 2.0).argsort(1)
    first_BL = torch.arange(keep_BL.size(1), device=keep_BL.device) < counts_B[:, None]
    return torch.zeros_like(keep_BL).scatter(1, order_BL, first_BL)


def each_drawn(rates_B: Tensor, keep_BL: Tensor) -> Tensor:
    """Draw each real position of a sentence independently with the probability in `rates_B`, bool [B, L]."""
    return keep_BL & (copied(torch.rand(keep_BL.shape), keep_BL.device) < rates_B[:, None])


def random_state(device: torch.device) -> Tensor:
    """Return the state of the generator of a device; it is kept on the host, which does not wait for a GPU."""
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


@contextmanager
def repeated(state: Tensor | None, device: torch.device) -> Iterator[None]:
    """Draw random numbers from an earlier state in the body, and go on from the present one; None changes nothing."""
    if state is None:
        yield
        return
    present = random_state(device)
    _set_random_state(state, device)
    try:
        yield
    finally:
        _set_random_state(present, device)


def _set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)
