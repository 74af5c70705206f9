"""Where the files of a pipeline lie, and what a stage gets to know of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.config import Pipeline, resolved
from kdmt.languages import Direction
from kdmt.log import get_logger
from kdmt.ranks import ALONE, Ranks
from kdmt.terminal import printable

_logger = get_logger(__name__)

# training set -> folder of its stage
TRAINING_SETS = {"raw": "prepare", "distilled": "distill"} | {
    name: name for name in ("interpolated", "mbr", "scored", "nbest", "sampled", "imported")
}


@dataclass(frozen=True)
class Workspace:
    """One pipeline on one disk.

    Attributes:
        config: the validated pipeline.
        runs: the folder that holds `<pipeline>/` folders and downloads.
        mirror: a folder that answers for URLs, or None.
        ranks: the processes that train together.
        show: takes the results of a stage as text, such as the table of scores; by default nothing shows them.
    """

    config: Pipeline
    runs: Path
    mirror: Path | None = None
    ranks: Ranks = ALONE
    show: Callable[[str], None] = lambda _: None

    @property
    def root(self) -> Path:
        return self.runs / self.config.name

    @property
    def downloads(self) -> Path:
        return self.runs / "downloads"

    @property
    def prepare(self) -> Path:
        return self.root / "prepare"

    @property
    def data_bin(self) -> Path:
        return self.prepare / "data-bin"

    @property
    def teacher(self) -> Path:
        return self.root / "teacher"

    @property
    def distill(self) -> Path:
        return self.root / "distill"

    @property
    def interpolated(self) -> Path:
        return self.root / "interpolated"

    @property
    def nbest(self) -> Path:
        return self.root / "nbest"

    @property
    def mbr(self) -> Path:
        return self.root / "mbr"

    @property
    def scored(self) -> Path:
        return self.root / "scored"

    @property
    def sampled(self) -> Path:
        return self.root / "sampled"

    @property
    def imported(self) -> Path:
        return self.root / "imported"

    def training_set(self, data: str) -> Path:
        """The folder of the stage that makes a training set; it has `data-bin/train.*`."""
        return self.root / TRAINING_SETS[data]

    def knowledge(self, data: str) -> Path:
        return self.root / "knowledge" / data

    @property
    def score(self) -> Path:
        return self.root / "score"

    def student(self, name: str, seed: int) -> Path:
        return self.root / "students" / name / f"seed_{seed}"

    @property
    def direction(self) -> Direction:
        return self.config.direction

    def resolved_config(self) -> dict[str, Any]:
        return resolved(self.config)

    def say(self, message: str) -> None:
        """Log a message for the user, from the first rank alone."""
        if not self.ranks.is_first:
            return
        _logger.info(printable(message))
