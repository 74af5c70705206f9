"""Ranks that follow the first one from stage to stage: it names each stage that all of them make together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kdmt.flow.stage import Stage
from kdmt.ranks import Ranks

_NO_MORE = "no more stages"


class Followers:
    """The other ranks, as the first one directs them.

    Args:
        ranks: this process, the first rank, among all.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._in_stage = False

    @contextmanager
    def making(self, stage: Stage) -> Iterator[None]:
        """Let the other ranks join while the body makes a stage.

        An error in the body is raised on the other ranks too, or ends this process and with it their connections, so
        that no rank waits for another.
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
    """Take part in the stages that the first rank names, until it has no more. For all ranks but the first."""
    by_name = {stage.name: stage for stage in stages}
    while (name := ranks.share("")) != _NO_MORE:
        join = by_name[name].join
        assert join is not None
        join()
