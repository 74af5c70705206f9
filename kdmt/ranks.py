"""Ranks: the processes that train one model together, and their communication apart from gradients.

`torchrun` starts them and sets the environment variables that are read here; any other process is alone. Counts, flags
and figures are sent with gloo on the CPU, so that they never make a GPU wait for the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Item = TypeVar("Item")

_TIMEOUT = timedelta(days=1)  # the other ranks wait while rank 0 runs an earlier stage or validates


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together. All ranks must make the same calls in the same order."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # index among the ranks of this machine, and of its GPU
    control: ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this rank is rank 0, which writes files and messages."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over all ranks, in float64."""
        if self.world == 1:
            return list(values)
        import torch

        totals = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(totals, group=self.control)
        return totals.tolist()

    def share(self, item: Item) -> Item:
        """Return the item of rank 0 on all ranks."""
        if self.world == 1:
            return item
        from torch.distributed import broadcast_object_list

        box = [item]
        broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def collect(self, item: Item) -> list[Item]:
        """Return the items of all ranks, in the order of the ranks, on all ranks."""
        if self.world == 1:
            return [item]
        from torch.distributed import all_gather_object

        items: list[Any] = [None] * self.world
        all_gather_object(items, item, group=self.control)
        return items

    def wait(self) -> None:
        """Wait until all ranks have made this call."""
        if self.world > 1:
            from torch.distributed import barrier

            barrier(group=self.control)


ALONE = Ranks()


def interleave(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """Return the list whose slices [0::n], [1::n], ... are the parts."""
    items: list[Any] = [None] * sum(map(len, parts))
    for rank, part in enumerate(parts):
        items[rank :: len(parts)] = part
    return items


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Connect the ranks that `torchrun` started while the body runs, and give this process's."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    import torch

    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    control = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), local_rank, control)
    torch.distributed.destroy_process_group()  # after an error the process ends without waiting for other ranks
