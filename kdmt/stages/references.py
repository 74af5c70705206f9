"""The text that translations are held against."""

from __future__ import annotations

from pathlib import Path

from kdmt.stages.workspace import Workspace


def read_lines(path: Path) -> list[str]:
    """Lines of a file that prepare or distill wrote: newline ends a line and nothing else does."""
    text = path.read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n") if text else []


def read_words(workspace: Workspace, split: str) -> list[str]:
    """The references of a split in the form that `score.detokenized` asks for."""
    form = "raw." if workspace.config.score.detokenized else ""
    return read_lines(workspace.prepare / f"{split}.{form}{workspace.config.target_lang}")
