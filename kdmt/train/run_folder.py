"""A run's folder of checkpoints: written by one rank, read by all, kept to what is needed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from kdmt.config import Train
from kdmt.files import PARTIAL
from kdmt.models.average_record import PREFIX, checkpoint_update, write_average_of
from kdmt.models.averages import save_average
from kdmt.models.checkpoint import TrainingState, save_checkpoint
from kdmt.models.checkpoint_folder import DAMAGED, list_checkpoints, newest_valid_checkpoint, point, remove_unfinished
from kdmt.models.transformer import Transformer
from kdmt.outputs import free_name


@dataclass
class Position:
    """Where training is. All of it is saved with a checkpoint."""

    update: int = 0
    epoch: int = 1
    batch: int = 0  # micro-batches of the epoch that are done
    schedule_offset: int = 0  # updates of an earlier run whose optimiser is kept
    best_score: float | None = None
    best_update: int | None = None
    best_loss: float | None = None  # of the same validation
    lowest_loss: float | None = None  # of all validations
    lowest_loss_update: int = 0
    bad_validations: int = 0
    validated: int = 0  # update of the last validation
    world: int = 1  # ranks that train together
    skipped: int = 0  # updates left out because their gradient was of no use
    skipped_in_a_row: int = 0
    loss_sums: dict[str, float] = field(default_factory=dict)  # since the last log line, over all ranks
    loss_counts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """The checkpoints of one run.

    Attributes:
        path: the folder.
        settings: which checkpoints count depends on result and extend settings alone.
        companions: files that every checkpoint carries.
    """

    path: Path
    settings: Train
    companions: Sequence[Path]

    def clean_up(self) -> tuple[Path | None, list[str]]:
        """Remove what a kill left half-written; the newest whole checkpoint, and what was wrong with newer ones.

        Damaged ones get another name: as checkpoints they would go into `average`, and push out those that are written
        from here on.
        """
        remove_unfinished(self.path)
        folder, problems = newest_valid_checkpoint(self.path)
        damaged = list_checkpoints(self.path)[::-1][: len(problems)]
        kept = [path.rename(free_name(path.with_name(f"{DAMAGED}{path.name}"))) for path in damaged]
        return folder, [f"{problem} (kept as {path.name})" for problem, path in zip(problems, kept, strict=True)]

    def mend_pointers(self, folder: Path, position: Position) -> None:
        """A kill may have come between a checkpoint and its pointers."""
        write_average_of(self.path, self.averaged())
        point(self.path / "last", folder)
        if position.best_update is not None:
            point(self.path / "best", self.path / f"{PREFIX}{position.best_update}")

    def save(
        self,
        model: Transformer,
        position: Position,
        *,
        weights: Mapping[str, Tensor],
        tensors: dict[str, Tensor],
    ) -> Path:
        """Write the checkpoint of this update, turn the pointers, and remove what is no longer needed."""
        folder = self.folder_of(position.update)
        state = TrainingState(tensors, asdict(position))
        save_checkpoint(folder, model, weights=weights, companions=self.companions, state=state)
        write_average_of(self.path, self.averaged())
        if position.best_update == position.update:
            point(self.path / "best", folder)
        point(self.path / "last", folder)
        self._prune(position)
        return folder

    def folder_of(self, update: int) -> Path:
        return self.path / f"{PREFIX}{update}"

    def write_average(self, model: Transformer) -> None:
        """`average`: the mean of the checkpoints that count. The model itself is left as it is."""
        save_average(self.path, self.averaged(), model, self.companions)

    def averaged(self) -> list[Path]:
        """The last checkpoints that were written at validations, and that of the last update of all.

        Which they are depends on result and extend settings alone, not on when a run was saved or stopped.
        """
        interval, last = self.settings.validate_interval_updates, self.settings.max_updates
        updates = [(folder, checkpoint_update(folder)) for folder in list_checkpoints(self.path)]
        chosen = [folder for folder, update in updates if update % interval == 0 or update == last]
        return chosen[-self.settings.average_checkpoints :]

    def last_good(self, failing: int | None) -> Path | None:
        """The newest checkpoint but that of the update `failing`, whose weights are the ones that failed."""
        kept = [folder for folder in list_checkpoints(self.path) if checkpoint_update(folder) != failing]
        return kept[-1] if kept else None

    def _prune(self, position: Position) -> None:
        """Keep what `average` and `best` need, and two checkpoints to resume from."""
        folders = list_checkpoints(self.path)
        keep = {*self.averaged(), *folders[-2:]}
        for folder in folders:
            if folder not in keep and checkpoint_update(folder) != position.best_update:
                _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that a kill half-way leaves nothing that looks like one."""
    aside = folder.with_name(f"{PARTIAL}removed-{folder.name}")
    folder.rename(aside)
    shutil.rmtree(aside)
