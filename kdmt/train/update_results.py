"""Loss sums and gradient norm of an update, which the host reads one update later, so that it never waits for a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class HostCopy:
    """Copy of a tensor on the host; the host waits for the device only when the copy is read."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)  # from a GPU, into pinned memory
        self._copied: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))  # which may not be the current device

    def read(self) -> list[float]:
        """Wait until the values are copied, and return them."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()


@dataclass(frozen=True)
class UnreadUpdate:
    """An update whose loss sums and gradient norm have not been read yet.

    Attributes:
        update: number of the update, from 1.
        epoch, batch: position in the data after the update.
        lr: learning rate.
        counts: divisor of each term of the loss.
        figures: float64 [terms + 1], the sum of each term over all micro-batches and ranks, and the gradient norm.
        speed: figures of the meter if the update is to be logged, otherwise None.
    """

    update: int
    epoch: int
    batch: int
    lr: float
    counts: dict[str, float]
    figures: HostCopy
    speed: dict[str, float] | None

    def read(self) -> tuple[dict[str, float], float]:
        """Return the sum of each term, and the gradient norm."""
        *sums, norm = self.figures.read()
        return dict(zip(self.counts, sums, strict=True)), norm

    @property
    def place(self) -> str:
        """The update and its position in the data, for messages."""
        return f"update {self.update} (epoch {self.epoch}, batch {self.batch})"


def is_unusable(figures: Tensor, *, explosion_norm: float) -> Tensor:
    """Return 1 if an update must not be applied, otherwise 0, as a float32 scalar on the device.

    Args:
        figures: float64 [terms + 1], sum of each term, and the gradient norm.
        explosion_norm: largest norm that is usable; 0 for no limit.
    """
    unusable = figures.isfinite().all().logical_not()
    if explosion_norm:
        unusable = unusable | (figures[-1] > explosion_norm)
    return unusable.float()
