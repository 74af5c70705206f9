"""The anchor of elastic weight consolidation: weights that a run begins from, and their Fisher information.

fisher.safetensors      in the folder of a run: the Fisher information, which a resumed run reads
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from kdmt.config import setting_path
from kdmt.corpus.batching import open_split
from kdmt.corpus.codec import check_vocabulary
from kdmt.errors import UserError
from kdmt.files import atomic_file
from kdmt.models.checkpoint import load_model
from kdmt.models.transformer import Transformer
from kdmt.objectives.consolidation import Anchor, ElasticConsolidation, fisher_diagonal
from kdmt.objectives.objective import Objective
from kdmt.ranks import Ranks
from kdmt.stages.training_inputs import Job
from kdmt.stages.workspace import Workspace
from kdmt.train.data import BinarizedData
from kdmt.train.run_log import Progress

FISHER = "fisher.safetensors"


def open_consolidated(workspace: Workspace, job: Job) -> BinarizedData | None:
    """Return the text that a model must not forget; None without elastic weight consolidation.

    Raises:
        UserError: if it is not the result of a prepare stage with the same dictionaries.
    """
    settings = job.train.ewc
    if settings is None:
        return None
    path, folder = setting_path(job.path, "train.ewc.prepared"), Path(settings.prepared)
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{path}: {folder} is not the folder of a complete prepare stage")
    try:
        check_vocabulary(folder, workspace.prepare, workspace.direction)
        data = open_split(folder / "data-bin", "train", workspace.direction)
        return BinarizedData(data, job.train, seed=0, right_to_left=job.right_to_left)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def consolidate(
    job: Job, objective: Objective, data: BinarizedData, *, device: torch.device, ranks: Ranks, progress: Progress
) -> None:
    """Set the anchor of a run; the Fisher information is computed unless an earlier start of the run did so.

    Args:
        data: text that the model must not forget.
    """
    assert job.train.ewc is not None
    assert job.first_checkpoint is not None  # the configuration is checked
    model, path = load_model(job.first_checkpoint), job.folder / FISHER
    if ranks.is_first and not path.exists():
        fisher = _fisher(model.to(device), data, job.train.ewc.pairs, device)
        with atomic_file(path) as aside:
            save_file(fisher, aside)
        model.cpu()
        progress.note(f"ewc: computed the Fisher information of {job.first_checkpoint} on {job.train.ewc.prepared}")
    ranks.wait()
    anchor = Anchor({name: each.detach() for name, each in model.named_parameters()}, load_file(path))
    (term,) = (each for each in objective.terms if isinstance(each, ElasticConsolidation))
    term.use(anchor)


def _fisher(model: Transformer, data: BinarizedData, pairs: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the Fisher information on pairs that are evenly spread over the text."""
    chosen = data.kept[np.linspace(0, len(data.kept) - 1, min(pairs, len(data.kept))).astype(np.int64)]
    found = fisher_diagonal(model, (data.load(chosen[place : place + 1]).to(device) for place in range(len(chosen))))
    return {name: each.cpu().contiguous() for name, each in found.items()}
