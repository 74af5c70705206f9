"""Coordination of ranks: the first rank sends the others the name of each stage that all ranks make together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kdmt.flow.stage import Stage
from kdmt.ranks import Ranks

_NO_MORE = "no more stages"


class Followers:
    """Control of the other ranks by the first one.

    Args:
        ranks: all ranks; this process is the first one.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._in_stage = False

    @contextmanager
    def making(self, stage: Stage) -> Iterator[None]:
        """Let the other ranks join while the body makes a stage.

        An error in the body is raised on the other ranks too, or ends this process and thus their connections, so that
        no rank waits for another.
        """
        if stage.join is None:
            yield
            return
        self.ranks.share(stage.name)
        self._in_stage = True
        yield
        self._in_stage = False

    def dismiss(self) -> None:
        """End the other ranks, unless an error has ended them inside a stage."""
        if not self._in_stage:
            self.ranks.share(_NO_MORE)


def join_stages(stages: Iterable[Stage], ranks: Ranks) -> None:
    """Join the stages that the first rank names, until there are no more. Call it on all ranks except the first."""
    by_name = {stage.name: stage for stage in stages}
    while (name := ranks.share("")) != _NO_MORE:
        join = by_name[name].join
        assert join is not None
        join()
