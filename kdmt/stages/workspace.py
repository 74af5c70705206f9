"""Where the files of a pipeline lie, and what a stage gets to know of its surroundings."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.config import Pipeline, resolved
from kdmt.errors import UserError
from kdmt.terminal import printable
from kdmt.train.ranks import ALONE, Ranks, cores_of_rank

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
    """

    config: Pipeline
    runs: Path
    mirror: Path | None = None
    ranks: Ranks = ALONE

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
    def langs(self) -> tuple[str, str]:
        return self.config.source_lang, self.config.target_lang

    def resolved_config(self) -> dict[str, Any]:
        return resolved(self.config)

    def say(self, message: str) -> None:
        """A line for the user, on standard error, from the first rank alone."""
        if not self.ranks.is_first:
            return
        print(printable(message), file=sys.stderr, flush=True)


def use_threads(threads: int) -> int:
    """Set PyTorch's threads, 0 for one a core of this process; returns the number.

    They take numbers below float32's normal range as zero: Adam's second moments sink into it, and there arithmetic
    takes much longer. Threads inherit the mode of the one that starts them, so that the first call has to
    come before the first parallel operation of the process.
    """
    import torch

    torch.set_flush_denormal(True)
    threads = threads or cores_of_rank()
    torch.set_num_threads(threads)
    return threads


def pick_device(name: str, ranks: Ranks = ALONE) -> Any:
    """`auto` is the first GPU if there is one, for each rank its own; returns a torch.device.

    Raises:
        UserError: no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.world > 1:
        name = f"cuda:{ranks.local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: expected auto, cpu, cuda or cuda:<n>") from None
    available = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(device.type, 0)
    if (device.index or 0) >= available:
        raise UserError(f"device {name!r}: this machine has {available} of that type")
    return device
