"""The folder of a run's checkpoints, written by one rank and read by all; checkpoints no longer needed are removed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from kdmt.config import Train
from kdmt.files import PARTIAL
from kdmt.models.average_record import AVERAGE, AVERAGE_BEST, PREFIX, checkpoint_update, write_wanted_of
from kdmt.models.averages import save_average
from kdmt.models.checkpoint import TrainingState, save_checkpoint
from kdmt.models.checkpoint_folder import DAMAGED, list_checkpoints, newest_valid_checkpoint, point, remove_unfinished
from kdmt.models.transformer import Transformer
from kdmt.outputs import free_name


@dataclass
class Validated:
    """A scheduled validation that is among the best ones.

    Attributes:
        update: its update.
        score: its score by `best_metric`.
        loss: its loss; None if an older version saved the position.
    """

    update: int
    score: float
    loss: float | None


@dataclass
class Position:
    """The position of a training run. All of it is saved with a checkpoint."""

    update: int = 0
    epoch: int = 1
    batch: int = 0  # number of micro-batches of the epoch that are done
    schedule_offset: int = 0  # number of updates of an earlier run whose optimiser state is used
    best_score: float | None = None
    best_update: int | None = None
    best_loss: float | None = None  # of the validation with the best score
    # the `average_checkpoints` best validations, the best first
    best_validations: list[Validated] = field(default_factory=list)
    lowest_loss: float | None = None  # of all validations
    lowest_loss_update: int = 0
    bad_validations: int = 0
    validated: int = 0  # update of the last validation
    world: int = 1  # number of ranks that train together
    skipped: int = 0  # number of updates skipped because their gradient could not be used
    skipped_in_a_row: int = 0
    loss_sums: dict[str, float] = field(default_factory=dict)  # since the last log line, over all ranks
    loss_counts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """The checkpoints of one run.

    Attributes:
        path: the folder.
        settings: settings of the training; the choice of checkpoints to average depends on result and extend settings
            alone.
        companions: files that are copied into every checkpoint.
    """

    path: Path
    settings: Train
    companions: Sequence[Path]

    def clean_up(self) -> tuple[Path | None, list[str]]:
        """Remove incomplete outputs of a killed process, and rename damaged checkpoints.

        Under their old names, damaged checkpoints would be averaged into `average`, and would displace checkpoints that
        are written later.

        Returns:
            The newest valid checkpoint, None if there is none, and the problems with newer ones.
        """
        remove_unfinished(self.path)
        folder, problems = newest_valid_checkpoint(self.path)
        damaged = list_checkpoints(self.path)[::-1][: len(problems)]
        kept = [path.rename(free_name(path.with_name(f"{DAMAGED}{path.name}"))) for path in damaged]
        return folder, [f"{problem} (kept as {path.name})" for problem, path in zip(problems, kept, strict=True)]

    def mend_pointers(self, folder: Path, position: Position) -> None:
        """Write the pointers to a checkpoint again, because a run may have been killed before it updated them."""
        self._record_averages(position)
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
        """Write the checkpoint of this update, update the pointers, and remove checkpoints no longer needed."""
        folder = self.folder_of(position.update)
        state = TrainingState(tensors, asdict(position))
        save_checkpoint(folder, model, weights=weights, companions=self.companions, state=state)
        self._record_averages(position)
        if position.best_update == position.update:
            point(self.path / "best", folder)
        point(self.path / "last", folder)
        self._prune(position)
        return folder

    def folder_of(self, update: int) -> Path:
        return self.path / f"{PREFIX}{update}"

    def write_averages(self, model: Transformer, position: Position) -> None:
        """Write `average` and `average_best`, the means of the last and of the best checkpoints.

        The model itself is not changed.
        """
        save_average(self.path, self.averaged(), model, self.companions)
        save_average(self.path, self.best_checkpoints(position), model, self.companions, name=AVERAGE_BEST)

    def _record_averages(self, position: Position) -> None:
        write_wanted_of(self.path, self.averaged(), AVERAGE)
        write_wanted_of(self.path, self.best_checkpoints(position), AVERAGE_BEST)

    def averaged(self) -> list[Path]:
        """Return the checkpoints to average: the last ones written at a validation or at the update `max_updates`.

        The choice depends on result and extend settings alone, not on when a run was saved or stopped.
        """
        interval, last = self.settings.validate_interval_updates, self.settings.max_updates
        updates = [(folder, checkpoint_update(folder)) for folder in list_checkpoints(self.path)]
        chosen = [folder for folder, update in updates if update % interval == 0 or update == last]
        return chosen[-self.settings.average_checkpoints :]

    def best_checkpoints(self, position: Position) -> list[Path]:
        """Return the checkpoints of the best validations, oldest first; damaged checkpoints are left out.

        Every validation is saved, so that the choice does not depend on when else a run was saved or stopped. If all
        of them are damaged, these are the last checkpoints, those of `averaged`.
        """
        updates = sorted(validated.update for validated in position.best_validations)
        return [folder for folder in map(self.folder_of, updates) if folder.is_dir()] or self.averaged()

    def last_good(self, failing: int | None) -> Path | None:
        """Return the newest checkpoint other than that of the update `failing`, whose weights gave the failure."""
        kept = [folder for folder in list_checkpoints(self.path) if checkpoint_update(folder) != failing]
        return kept[-1] if kept else None

    def _prune(self, position: Position) -> None:
        """Remove checkpoints that are in no average, nor the best, nor the two newest, from which a run resumes."""
        folders = list_checkpoints(self.path)
        keep = {*self.averaged(), *self.best_checkpoints(position), *folders[-2:]}
        for folder in folders:
            if folder not in keep and checkpoint_update(folder) != position.best_update:
                _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a checkpoint, so that a kill during the removal leaves no incomplete checkpoint under its name."""
    aside = folder.with_name(f"{PARTIAL}removed-{folder.name}")
    folder.rename(aside)
    shutil.rmtree(aside)
