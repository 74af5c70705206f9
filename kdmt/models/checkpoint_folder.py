"""Checkpoints on disk: folders that appear whole or not at all, and the files that point to them.

Nothing here loads torch: most stages want to know no more than which checkpoint there is.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from functools import cache
from pathlib import Path

from kdmt.checksum import CHECKSUMS, read_checksums, verify_checkpoint
from kdmt.choices import CHECKPOINT_PREFERENCE
from kdmt.errors import UserError
from kdmt.files import PARTIAL, write_text
from kdmt.models.average_record import AVERAGE, PREFIX, checkpoint_update, is_outdated
from kdmt.recognition import wrong_path

_NAME = re.compile(rf"{PREFIX}[0-9]{{1,18}}")
DAMAGED = "damaged-"  # begins the names of checkpoints that were found damaged
_POINTER_BYTES = 200  # most of a pointer file
_NO_CHECKPOINT = "neither a checkpoint folder nor a run that has one"

_logger = logging.getLogger(__name__)


def checkpoint_sha256(folder: Path) -> str:
    """The identity of a checkpoint: the sha256 of its weights."""
    checksums = read_checksums(folder)
    if "model.safetensors" not in checksums:
        raise UserError(f"{folder / CHECKSUMS}: does not list model.safetensors")
    return checksums["model.safetensors"]


def point(pointer: Path, folder: Path) -> None:
    """Make a pointer file (`best`, `last`) name a checkpoint folder beside it."""
    write_text(pointer, f"{folder.name}\n")


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` is, points to, or (a training run) holds: average, else best, else last.

    The average of a run that has gone on since is made anew from the run's checkpoints.

    Raises:
        UserError: there is none, or the average cannot be made anew.
    """
    if path.is_file():
        return resolve_checkpoint(_pointed(path))
    if (path / "model.safetensors").is_file() and ((path / "model.json").is_file() or not _is_foreign(path)):
        if path.name == AVERAGE and is_outdated(path.parent):
            _warn_once(f"{path}: older than the run's last validation; {path.parent} names a newer one")
        return path
    if (path / AVERAGE).exists() and is_outdated(path):
        from kdmt.models.averages import renew_average

        renew_average(path)
    for name in CHECKPOINT_PREFERENCE:
        if (path / name).exists():
            return resolve_checkpoint(path / name)
    raise wrong_path(path, _NO_CHECKPOINT)


def _pointed(pointer: Path) -> Path:
    """The folder that a pointer file names: a name and nothing else, of what lies beside it.

    Raises:
        UserError: it is another file.
    """
    with pointer.open("rb") as file:
        name = os.fsdecode(file.read(_POINTER_BYTES + 1)).strip()
    is_name = len(name) <= _POINTER_BYTES and re.fullmatch(r"\w[\w.-]*", name) is not None
    if not is_name or not (name.startswith(PREFIX) or (pointer.parent / name).is_dir()):
        raise wrong_path(pointer, _NO_CHECKPOINT)
    folder = pointer.parent / name
    if not folder.is_dir():
        raise UserError(f"{pointer}: names {name!r}, and there is no such checkpoint folder beside it")
    return folder


def _is_foreign(folder: Path) -> bool:
    """Whether a folder is a model of Hugging Face's, whose weights have the name that ours have."""
    return (folder / "config.json").is_file()


@cache
def _warn_once(message: str) -> None:
    _logger.warning(message)


def list_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    folders = [path for path in run.glob(f"{PREFIX}*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(folders, key=checkpoint_update)


def num_updates(run: Path) -> int:
    """Return the updates of a run's newest checkpoint, 0 if it has none."""
    folders = list_checkpoints(run)
    return checkpoint_update(folders[-1]) if folders else 0


def newest_valid_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that passes verification, and what was wrong with newer ones."""
    problems = []
    for folder in reversed(list_checkpoints(run)):
        try:
            verify_checkpoint(folder)
        except UserError as error:
            problems.append(str(error))
        else:
            return folder, problems
    return None, problems


def remove_unfinished(run: Path) -> None:
    """Remove what a killed process was writing; a checkpoint that was being replaced comes back."""
    for replaced in run.glob(f"{PARTIAL}replaced-*"):
        folder = run / replaced.name.removeprefix(f"{PARTIAL}replaced-")
        if not folder.exists():
            replaced.rename(folder)
    for path in run.glob(f"{PARTIAL}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
