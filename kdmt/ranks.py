"""The processes that train one model together, and the messages between them other than gradients.

`torchrun` starts them and sets the environment variables that are read here; a process that `torchrun` did not start
trains alone. Messages are sent over gloo on the CPU, so that a GPU never waits for the host; tensors on a GPU are added
over NCCL, so that the host never waits for a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

    from kdmt.rank_channel import RankChannel

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """Rank of this process among those that train together. All ranks must make the same calls in the same order.

    Attributes:
        rank: index of this process.
        world: number of processes.
        local_rank: index of this process on this machine, which is the index of its GPU.
        channel: connection for messages; None for a process that trains alone.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    channel: RankChannel | None = None

    @property
    def is_first(self) -> bool:
        """Return whether this rank writes files and messages for the user."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return each value summed over all ranks, in float64."""
        return list(values) if self.channel is None else self.channel.sum(values)

    def add(self, values: torch.Tensor) -> torch.Tensor:
        """Return a tensor summed over all ranks, on its device; the host does not wait for a GPU."""
        return values if self.channel is None else self.channel.add(values)

    def share(self, item: Item) -> Item:
        """Return the item of rank 0."""
        return item if self.channel is None else self.channel.broadcast(item)

    def collect(self, item: Item) -> list[Item]:
        """Return the items of all ranks, in the order of the ranks."""
        return [item] if self.channel is None else self.channel.gather(item)

    def wait(self) -> None:
        """Return once all ranks have called this."""
        if self.channel is not None:
            self.channel.wait()


ALONE = Ranks()


def interleave(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """Return one list from the results of n ranks, where rank r has the items of the slice [r::n]."""
    items: list[Any] = [None] * sum(map(len, parts))
    for rank, part in enumerate(parts):
        items[rank :: len(parts)] = part
    return items


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Connect the ranks that `torchrun` started together with this process, while the body runs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    from kdmt.rank_channel import connected

    with connected() as channel:
        yield Ranks(channel.rank, channel.world, channel.local_rank, channel)
