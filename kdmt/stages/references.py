"""The text that translations are held against."""

from __future__ import annotations

from kdmt.corpus.lines import read_lines
from kdmt.stages.workspace import Workspace


def read_references(workspace: Workspace, split: str) -> list[str]:
    """The references of a split in the form that `score.detokenized` asks for."""
    form = "raw." if workspace.config.score.detokenized else ""
    return read_lines(workspace.prepare / f"{split}.{form}{workspace.config.target_lang}")
