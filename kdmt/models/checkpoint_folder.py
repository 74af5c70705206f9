"""Checkpoints on disk: folders that are complete or absent, and the files that point to them.

This module does not load PyTorch, since most stages only need to know which checkpoint exists.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from functools import cache
from pathlib import Path

from kdmt.checksum import CHECKSUMS, read_checksums, verify_checkpoint
from kdmt.choices import CHECKPOINT_PREFERENCE, CheckpointName
from kdmt.errors import UserError
from kdmt.files import PARTIAL, write_text
from kdmt.models.average_record import (
    AVERAGE,
    AVERAGE_BEST,
    AVERAGES,
    PREFIX,
    average_of,
    checkpoint_update,
    is_outdated,
)
from kdmt.models.checkpoint_choice import AUTO, CHOSEN, Choice, describe_updates, is_current, read_choice
from kdmt.recognition import wrong_path

_NAME = re.compile(rf"{PREFIX}[0-9]{{1,18}}")
_STAGE = re.compile(r"stage_[1-9][0-9]{0,8}")
LAST = "last"  # name of the pointer to the last checkpoint of a run, or to the last stage of a student
DAMAGED = "damaged-"  # prefix of the names of damaged checkpoints
_POINTER_BYTES = 200  # largest size of a pointer file
_NO_CHECKPOINT = "neither a checkpoint folder nor a run that has one"

_logger = logging.getLogger(__name__)


def checkpoint_sha256(folder: Path) -> str:
    """Return the identity of a checkpoint: the SHA-256 of its weights, as recorded in its list of checksums.

    Raises:
        UserError: if the list does not contain the file of the weights.
    """
    checksums = read_checksums(folder)
    if "model.safetensors" not in checksums:
        raise UserError(f"{folder / CHECKSUMS}: does not list model.safetensors")
    return checksums["model.safetensors"]


def point(pointer: Path, folder: Path) -> None:
    """Write a pointer file (`best`, `last`) with the name of a checkpoint in the same folder."""
    write_text(pointer, f"{folder.name}\n")


def resolve_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder for a path.

    The path is a checkpoint folder, a pointer file, a training run, or `RUN/auto` (see `resolve_name`). For a run it is
    the checkpoint that was chosen by validation when training ended; if none was chosen, it is the average, else the
    best, else the last checkpoint. An average is written again from the run's checkpoints if it is out of date. The
    folder of a student that is trained in stages is read as the run of its last stage.

    Raises:
        UserError: if there is no checkpoint, or an average cannot be written again.
    """
    if (stage := _last_stage(path)) is not None:
        return resolve_checkpoint(stage)
    if (path.name == LAST or not path.exists()) and (stage := _last_stage(path.parent)) is not None:
        return resolve_checkpoint(stage / path.name)
    if path.is_file():
        return resolve_checkpoint(_pointed(path))
    if (path / "model.safetensors").is_file() and ((path / "model.json").is_file() or not _is_foreign(path)):
        if any(path.name == name and is_outdated(path.parent, name) for name in AVERAGES):
            _warn_once(f"{path}: older than the run's last validation; {path.parent} names a newer one")
        return path
    if path.name == AUTO and not path.exists():
        return resolve_checkpoint(path.parent / resolve_name(path.parent, AUTO))
    if path.name == AVERAGE_BEST and not path.exists() and _is_run(path.parent):
        raise UserError(f"{path}: missing: an older version of kdmt trained the run, or its training has not ended")
    name = _preferred_name(path)
    if name is None:
        raise wrong_path(path, _NO_CHECKPOINT)
    _renew_if_outdated(path, name)
    return resolve_checkpoint(path / name)


def _preferred_name(run: Path) -> CheckpointName | None:
    """Return the checkpoint of a run that its folder alone names, None if the folder is not a run."""
    choice = read_choice(run)
    if choice is not None:
        if (run / choice.checkpoint).exists():
            _warn_if_validated_since(run, choice)
            return choice.checkpoint
        _warn_once(f"{run}: {choice.checkpoint}, which {CHOSEN} names, is missing")
    return next((name for name in CHECKPOINT_PREFERENCE if (run / name).exists()), None)


def log_opened(path: Path, folder: Path) -> None:
    """Log the checkpoint that a command opened for a path, unless the path is the folder of the checkpoint itself."""
    if folder != path:
        updates = average_of(folder) if folder.name in AVERAGES else None
        _logger.info(f"{path}: opened {describe_updates(str(folder), updates) if updates else folder}")


def _last_stage(folder: Path) -> Path | None:
    """Return the run of the last stage of a student, None if the folder is not that of a student in stages."""
    pointer = folder / LAST
    if _STAGE.fullmatch(folder.name) or not pointer.is_file():  # a stage has no stages, whatever its files are
        return None
    with pointer.open("rb") as file:
        name = os.fsdecode(file.read(_POINTER_BYTES)).strip()
    return folder / name if _STAGE.fullmatch(name) and (folder / name).is_dir() else None


def resolve_name(run: Path, name: CheckpointName) -> CheckpointName:
    """Return the name of a checkpoint of a run, or what the name `auto` is there.

    If no checkpoint was chosen, because an older version trained the run or its training has not ended, `auto` is the
    average, else the best, else the last checkpoint, and a warning says so. The same applies to an average that is out
    of date and cannot be written again. If the run was validated since the choice, `auto` keeps its kind.
    """
    if name != AUTO:
        return name
    if (stage := _last_stage(run)) is not None:
        return resolve_name(stage, name)
    choice = read_choice(run)
    if choice is None:
        reason = f"it has no {CHOSEN}: an older version of kdmt trained it, or its training has not ended"
        return _without_choice(run, reason)
    if choice.checkpoint in AVERAGES:
        try:
            _renew_if_outdated(run, choice.checkpoint)
        except UserError as error:
            return _without_choice(run, str(error))
    if not (run / choice.checkpoint).exists():
        return _without_choice(run, f"{choice.checkpoint} is missing")
    _warn_if_validated_since(run, choice)
    return choice.checkpoint


def _warn_if_validated_since(run: Path, choice: Choice) -> None:
    if not is_current(run, choice):
        _warn_once(f"{run}: validated since {CHOSEN} was written; '{AUTO}' is still {choice.checkpoint}")


def _without_choice(run: Path, reason: str) -> CheckpointName:
    """Return the checkpoint that is used in place of a choice, after a warning; the average if there is none at all."""
    for name in CHECKPOINT_PREFERENCE:
        if not (run / name).exists():
            continue
        try:
            _renew_if_outdated(run, name)
        except UserError as error:
            reason = str(error)
            continue
        _warn_once(f"{run}: '{AUTO}' is {name}, since no checkpoint was chosen by validation ({reason})")
        return name
    return AVERAGE


def _renew_if_outdated(run: Path, name: CheckpointName) -> None:
    """Write an average of a run again if it is out of date.

    Raises:
        UserError: if it cannot be written.
    """
    if name not in AVERAGES or not (run / name).exists() or not is_outdated(run, name):
        return
    from kdmt.models.averages import renew_average

    renew_average(run, name)


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in CHECKPOINT_PREFERENCE)


def _pointed(pointer: Path) -> Path:
    """Return the folder that a pointer file names. The file contains only the name of a folder next to it.

    Raises:
        UserError: if the file is not a pointer file, or the folder does not exist.
    """
    with pointer.open("rb") as file:
        name = os.fsdecode(file.read(_POINTER_BYTES + 1)).strip()
    is_name = len(name) <= _POINTER_BYTES and re.fullmatch(r"\w[\w.-]*", name) is not None
    if not is_name or not (name.startswith(PREFIX) or (pointer.parent / name).is_dir()):
        raise wrong_path(pointer, _NO_CHECKPOINT)
    folder = pointer.parent / name
    if not folder.is_dir():
        raise UserError(f"{pointer}: names {name!r}, and there is no such checkpoint folder in the same folder")
    return folder


def _is_foreign(folder: Path) -> bool:
    """Return whether a folder is a model of Hugging Face, whose weights have the same file name as those of kdmt."""
    return (folder / "config.json").is_file()


@cache
def _warn_once(message: str) -> None:
    _logger.warning(message)


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first."""
    folders = [path for path in run.glob(f"{PREFIX}*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(folders, key=checkpoint_update)


def num_updates(run: Path) -> int:
    """Return the number of updates of the newest checkpoint of a run, 0 if there is no checkpoint."""
    folders = list_checkpoints(run)
    return checkpoint_update(folders[-1]) if folders else 0


def newest_valid_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that passes verification, None if there is none, and the problems of newer ones."""
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
    """Remove the unfinished files of a killed process, and restore a checkpoint that was being replaced."""
    for replaced in run.glob(f"{PARTIAL}replaced-*"):
        folder = run / replaced.name.removeprefix(f"{PARTIAL}replaced-")
        if not folder.exists():
            replaced.rename(folder)
    for path in run.glob(f"{PARTIAL}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
