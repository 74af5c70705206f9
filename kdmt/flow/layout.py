"""Locations of the files of one pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Folders of one pipeline: one for each stage, and one for downloads, which all pipelines share.

    Attributes:
        runs: folder of all pipelines.
        name: name of the pipeline.
    """

    runs: Path
    name: str

    @property
    def root(self) -> Path:
        """Return the folder of the pipeline."""
        return self.runs / self.name

    @property
    def downloads(self) -> Path:
        """Return the folder of downloads."""
        return self.runs / "downloads"

    def folder(self, *names: str) -> Path:
        """Return the folder of a stage, given its name, or several names if stages are grouped."""
        return self.root.joinpath(*names)
