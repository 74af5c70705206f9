"""Pairs that a model of the other direction finds improbable, and `kdmt rescore`, which scores any pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdmt.stages.workspace import Workspace

if TYPE_CHECKING:
    from kdmt.distill.merge import MergeReport, Outputs


def reverse_inputs(workspace: Workspace) -> dict[str, str]:
    """The weights of the reverse model, for a plan."""
    from kdmt.models.checkpoint import checkpoint_sha256, resolve_checkpoint

    reverse = workspace.config.distill.reverse
    if reverse is None:
        return {}
    return {reverse.checkpoint: checkpoint_sha256(resolve_checkpoint(Path(reverse.checkpoint)))}


def drop_improbable(workspace: Workspace, folder: Path, files: Outputs, report: MergeReport) -> None:
    """Take those pairs out of the files again that the reverse model finds the least probable."""
    if workspace.config.distill.reverse is None:
        return
    raise NotImplementedError
