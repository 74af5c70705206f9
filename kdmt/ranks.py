"""The processes that train one model together, and what they tell each other beside gradients.

`torchrun` starts them and sets the environment that is read here; a process that it did not start is alone. Counts,
flags and figures travel over gloo on the CPU, so that asking for one never makes a GPU wait for the host.
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

_PATIENCE = timedelta(days=1)  # rank 0 may be at an earlier stage, or validating, while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. Every rank must make the same calls in the same order."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # among those of this machine: the number of its GPU
    control: ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that writes files and talks."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value added over all ranks, in float64."""
        if self.world == 1:
            return list(values)
        import torch
        from torch.distributed import all_reduce

        totals = torch.tensor(values, dtype=torch.float64)
        all_reduce(totals, group=self.control)
        return totals.tolist()

    def share(self, item: Item) -> Item:
        """What rank 0 gave, for all."""
        if self.world == 1:
            return item
        from torch.distributed import broadcast_object_list

        box = [item]
        broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def collect(self, item: Item) -> list[Item]:
        """What each rank gave, in the order of the ranks, for all."""
        if self.world == 1:
            return [item]
        from torch.distributed import all_gather_object

        items: list[Any] = [None] * self.world
        all_gather_object(items, item, group=self.control)
        return items

    def wait(self) -> None:
        """Return once all ranks are here."""
        if self.world > 1:
            from torch.distributed import barrier

            barrier(group=self.control)


ALONE = Ranks()


def interleave(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """One list of what n ranks made of its slices [0::n], [1::n], ..."""
    items: list[Any] = [None] * sum(map(len, parts))
    for rank, part in enumerate(parts):
        items[rank :: len(parts)] = part
    return items


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks that `torchrun` started together with this process, connected while the body runs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    control = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    yield Ranks(distributed.get_rank(), distributed.get_world_size(), local_rank, control)
    distributed.destroy_process_group()  # after an error the end of the process does it, without waiting for anybody
