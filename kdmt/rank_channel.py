"""Messages between the ranks of a training run: over gloo on the CPU, and over NCCL for tensors on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from kdmt.cuda_options import configure_cuda

Item = TypeVar("Item")

_TIMEOUT = timedelta(days=1)  # rank 0 may be at an earlier stage, or validating, while the others wait


@dataclass(frozen=True)
class RankChannel:
    """A connection of all ranks. All ranks must make the same calls in the same order.

    Attributes:
        rank: index of this process.
        world: number of processes.
        local_rank: index of this process on this machine.
        group: process group for messages.
    """

    rank: int
    world: int
    local_rank: int
    group: distributed.ProcessGroup

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return each value summed over all ranks, in float64."""
        totals = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(totals, group=self.group)
        return totals.tolist()

    def add(self, values: torch.Tensor) -> torch.Tensor:
        """Return a tensor summed over all ranks, in place on its device; the host does not wait for a GPU."""
        distributed.all_reduce(values, group=None if values.device.type == "cuda" else self.group)
        return values

    def broadcast(self, item: Item) -> Item:
        """Return the item of rank 0."""
        box = [item]
        distributed.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def gather(self, item: Item) -> list[Item]:
        """Return the items of all ranks, in the order of the ranks."""
        items: list[Any] = [None] * self.world
        distributed.all_gather_object(items, item, group=self.group)
        return items

    def wait(self) -> None:
        """Return once all ranks have called this."""
        distributed.barrier(group=self.group)


@contextmanager
def connected() -> Iterator[RankChannel]:
    """Connect the processes that `torchrun` has started, while the body runs."""
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        configure_cuda()
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    group = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    assert isinstance(group, distributed.ProcessGroup)
    yield RankChannel(distributed.get_rank(), distributed.get_world_size(), local_rank, group)
    distributed.destroy_process_group()  # after an error, the process ends without waiting for others
