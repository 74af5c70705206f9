"""Contrastive tests of the score stage: the accuracy of each system, in contrastive.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kdmt.decode.engines.contrastive import contrast
from kdmt.decode.engines.engine import ScoringEngine
from kdmt.decode.engines.translator import Translator
from kdmt.runtime import pick_device
from kdmt.score.contrastive import CONTRASTIVE, ContrastiveRow, read_pairs, write_rows
from kdmt.score.systems import System, taken_checkpoint
from kdmt.stages.workspace import Workspace


def write_contrastive(workspace: Workspace, systems: Sequence[System], *, threads: int) -> list[Path]:
    """Write the results of the contrastive tests, and return the path of the file; nothing without tests.

    Args:
        threads: number of CPU threads.

    Raises:
        UserError: if a file of pairs is not valid.
    """
    if not workspace.config.score.contrastive:
        return []
    path = workspace.score / CONTRASTIVE
    write_rows(path, list(_rows(workspace, systems, threads)))
    return [path]


def _rows(workspace: Workspace, systems: Sequence[System], threads: int) -> Iterator[ContrastiveRow]:
    """Yield a row for each autoregressive system and each test."""
    score = workspace.config.score
    tests = {name: read_pairs(Path(path)) for name, path in score.contrastive.items()}
    for system in systems:
        folder = system.run / taken_checkpoint(system.run, score.checkpoint).name
        translator = Translator.load(folder, device=pick_device(score.device), threads=threads)
        if not isinstance(translator.engine, ScoringEngine):
            left_out = f"{system.name} seed {system.seed} is left out of the contrastive tests"
            workspace.say(f"score: {left_out}: it is not autoregressive")
            continue
        for name, pairs in tests.items():
            yield ContrastiveRow.of(system.name, system.seed, name, contrast(translator, pairs))
