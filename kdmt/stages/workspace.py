"""The settings, folders and processes of one pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.config import NO_LOCK_FILE, Pipeline, Provenance, resolved
from kdmt.flow.layout import Layout
from kdmt.languages import Direction
from kdmt.log import get_logger
from kdmt.ranks import ALONE, Ranks
from kdmt.terminal import printable
from kdmt.training_sets import TRAINING_SETS

_logger = get_logger(__name__)


@dataclass(frozen=True)
class Workspace:
    """The settings, folders and processes of one pipeline.

    Attributes:
        config: validated settings of the pipeline.
        runs: folder of all pipelines and of downloads.
        mirrors: folders and bases of URLs in which the files of URLs are searched first.
        ranks: processes that train together.
        show: function that takes results of a stage as text, such as the table of scores (default: ignore them).
        provenance: what the lock file says about the corpora.
    """

    config: Pipeline
    runs: Path
    mirrors: tuple[str, ...] = ()
    ranks: Ranks = ALONE
    show: Callable[[str], None] = lambda _: None
    provenance: Provenance = NO_LOCK_FILE

    @property
    def layout(self) -> Layout:
        return Layout(self.runs, self.config.name)

    @property
    def root(self) -> Path:
        return self.layout.root

    @property
    def prepare(self) -> Path:
        return self.layout.folder("prepare")

    @property
    def data_bin(self) -> Path:
        return self.prepare / "data-bin"

    @property
    def teacher(self) -> Path:
        return self.layout.folder("teacher")

    @property
    def score(self) -> Path:
        return self.layout.folder("score")

    @property
    def scorers(self) -> Path:
        """Return the folder of the caches and logs of external scorers."""
        return self.layout.folder("scorers")

    def training_set(self, name: str) -> Path:
        """Return the folder of the stage that makes a training set; the set is in its `data-bin/train.*`."""
        return self.layout.folder(TRAINING_SETS[name].folder)

    def knowledge(self, name: str) -> Path:
        """Return the folder of the knowledge cache of a training set."""
        return self.layout.folder("knowledge", name)

    def student(self, name: str, seed: int, stage: int | None = None) -> Path:
        """Return the folder of a student's run.

        Args:
            stage: number of one of its stages, from 1; None for a student without stages, and for the folder that holds
                the runs of all stages.
        """
        folder = self.layout.folder("students", name, f"seed_{seed}")
        return folder if stage is None else folder / f"stage_{stage}"

    @property
    def direction(self) -> Direction:
        return self.config.direction

    def resolved_config(self) -> dict[str, Any]:
        """Return all settings, including defaults."""
        return resolved(self.config)

    def say(self, message: str) -> None:
        """Log a message for the user, only on the first rank."""
        if not self.ranks.is_first:
            return
        _logger.info(printable(message))
