"""Where the files of a pipeline lie, and what a stage gets to know of its surroundings."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmt.config import Pipeline, resolved
from kdmt.errors import UserError


@dataclass(frozen=True)
class Workspace:
    """One pipeline on one disk.

    Attributes:
        config: the validated pipeline.
        runs: the folder that holds `<pipeline>/` folders and downloads.
        mirror: a folder that answers for URLs, or None.
    """

    config: Pipeline
    runs: Path
    mirror: Path | None = None

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
        """A line for the user, on standard error."""
        print(message, file=sys.stderr, flush=True)


def use_threads(threads: int) -> int:
    """Set PyTorch's threads, 0 for one a core of this process; returns the number."""
    import torch

    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    return threads


def pick_device(name: str) -> Any:
    """`auto` is the first GPU if there is one; returns a torch.device.

    Raises:
        UserError: no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: expected auto, cpu, cuda or cuda:<n>") from None
    available = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(device.type, 0)
    if (device.index or 0) >= available:
        raise UserError(f"device {name!r}: this machine has {available} of that type")
    return device
