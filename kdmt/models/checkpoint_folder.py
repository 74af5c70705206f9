"""Checkpoints on disk: folders that appear whole or not at all, and the files that point to them.

Nothing here loads torch: most stages want to know no more than which checkpoint there is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from kdmt.checksum import verify_checkpoint
from kdmt.errors import UserError
from kdmt.recognition import wrong_path

PREFIX = "checkpoint_"
ASIDE = ".partial-"  # begins the names of what is being written
_POINTER_BYTES = 200  # most of a pointer file
_NO_CHECKPOINT = "neither a checkpoint folder nor a run that has one"


def checkpoint_sha256(folder: Path) -> str:
    """The identity of a checkpoint: the sha256 of its weights."""
    try:
        checksums: Mapping[str, str] = json.loads((folder / "checksums.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: not a checkpoint: it has no checksums.json") from None
    return checksums["model.safetensors"]


def point(pointer: Path, folder: Path) -> None:
    """Make a pointer file (`best`, `last`) name a checkpoint folder beside it."""
    aside = pointer.with_name(f"{ASIDE}{pointer.name}")
    aside.write_text(f"{folder.name}\n")
    sync(aside)
    aside.replace(pointer)


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` is, points to, or (a training run) holds: average, else best, else last.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return resolve_checkpoint(_pointed(path))
    if (path / "model.safetensors").is_file() and ((path / "model.json").is_file() or not _is_foreign(path)):
        return path
    for name in ("average", "best", "last"):
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
    is_name = len(name) <= _POINTER_BYTES and re.fullmatch(r"[\w.-]+", name) is not None
    if not is_name or not (name.startswith(PREFIX) or (pointer.parent / name).is_dir()):
        raise wrong_path(pointer, _NO_CHECKPOINT)
    return pointer.parent / name


def _is_foreign(folder: Path) -> bool:
    """Whether a folder is a model of Hugging Face's, whose weights have the name that ours have."""
    return (folder / "config.json").is_file()


def list_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    folders = [path for path in run.glob(f"{PREFIX}*") if path.is_dir() and path.name.removeprefix(PREFIX).isdigit()]
    return sorted(folders, key=checkpoint_update)


def checkpoint_update(folder: Path) -> int:
    """The update that a checkpoint was written at."""
    return int(folder.name.removeprefix(PREFIX))


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
    for replaced in run.glob(f"{ASIDE}replaced-*"):
        folder = run / replaced.name.removeprefix(f"{ASIDE}replaced-")
        if not folder.exists():
            replaced.rename(folder)
    for path in run.glob(f"{ASIDE}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync(path: Path) -> None:
    """Make sure that a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
