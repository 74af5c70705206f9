"""Averages of the checkpoints of a run: written at its end, and written again if the run was continued since."""

from __future__ import annotations

import errno
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kdmt.checksum import verify_checkpoint
from kdmt.choices import AverageName
from kdmt.errors import UserError
from kdmt.files import PARTIAL
from kdmt.models.average_record import AVERAGE, AVERAGE_OF, PREFIX, is_outdated, wanted_of, write_average_of
from kdmt.models.checkpoint import average_weights, load_model, save_checkpoint
from kdmt.models.transformer import Transformer
from kdmt.outputs import Locked, open_lock, take, writing

_logger = logging.getLogger(__name__)

_NOT_COMPANIONS = {"model.safetensors", "model.json", "checksums.json", AVERAGE_OF}


def save_average(
    run: Path,
    checkpoints: Sequence[Path],
    model: Transformer,
    companions: Sequence[Path],
    *,
    name: AverageName = AVERAGE,
) -> None:
    """Write an average of a run.

    Args:
        run: folder of the run.
        checkpoints: folders of the checkpoints to average, oldest first.
        model: model of the same shape; it is not changed.
        companions: files and folders that every checkpoint contains.
        name: name of the folder of the average.
    """
    with tempfile.TemporaryDirectory(dir=run, prefix=PARTIAL) as scratch:
        write_average_of(Path(scratch), checkpoints)
        save_checkpoint(
            run / name,
            model,
            weights=average_weights(checkpoints),
            companions=[*companions, Path(scratch) / AVERAGE_OF],
        )


def renew_average(run: Path, name: AverageName = AVERAGE) -> None:
    """Write an average of a run again if it is out of date, for example after an interrupted extension.

    Raises:
        UserError: if the run is being trained, a checkpoint is missing or damaged, or the folder is not writable. The
            message names the alternatives.
    """
    try:
        with writing(run / name, wait=lambda: None):  # only one of several ranks writes at a time
            if is_outdated(run, name):
                _renew(run, name)
    except UserError as error:
        raise UserError(_with_alternatives(run, name, str(error))) from None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(_with_alternatives(run, name, f"{error.filename}: {error.strerror}")) from None


def _renew(run: Path, name: AverageName) -> None:
    updates = wanted_of(run, name)
    if updates is None:
        raise UserError("an older version trained it, which did not record what its average is made of")
    if not updates:
        raise UserError("all checkpoints that it should be made of are damaged")
    folders = [run / f"{PREFIX}{update}" for update in updates]
    with open_lock(run.resolve()) as file:
        if not take(file):
            raise Locked("it is being trained now")
        for folder in folders:
            verify_checkpoint(folder)
        companions = [
            path
            for path in sorted(folders[-1].iterdir())
            if path.name not in _NOT_COMPANIONS and not path.name.startswith("training_state.")
        ]
        save_average(run, folders, load_model(folders[-1]), companions, name=name)
    _logger.warning(
        "%s: was older than the run's last validation; rebuilt from updates %s",
        run / name,
        ", ".join(map(str, updates)),
    )


def _with_alternatives(run: Path, average: AverageName, problem: str) -> str:
    others = " or ".join(str(run / name) for name in ("best", "last") if (run / name).exists())
    return (
        f"{run / average}: older than the run's last validation, and it cannot be rebuilt ({problem}); "
        f"finish the run's training, or name {others or 'a checkpoint'}, or {run / average} for the old one"
    )
