"""Checkpoints on disk: folders that appear whole or not at all, and the files that point to them.

Nothing here loads torch: most stages want to know no more than which checkpoint there is.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from kdmt.checksum import CHECKSUMS, read_checksums, verify_checkpoint
from kdmt.errors import UserError
from kdmt.files import naming

PREFIX = "checkpoint_"
_NAME = re.compile(rf"{PREFIX}[0-9]{{1,18}}")
ASIDE = ".partial-"  # begins the names of what is being written


def checkpoint_sha256(folder: Path) -> str:
    """The identity of a checkpoint: the sha256 of its weights."""
    checksums = read_checksums(folder)
    if "model.safetensors" not in checksums:
        raise UserError(f"{folder / CHECKSUMS}: does not list model.safetensors")
    return checksums["model.safetensors"]


def point(pointer: Path, folder: Path) -> None:
    """Make a pointer file (`best`, `last`) name a checkpoint folder beside it."""
    aside = pointer.with_name(f"{ASIDE}{pointer.name}")
    with naming(pointer):
        aside.write_text(f"{folder.name}\n")
    sync(aside)
    aside.replace(pointer)


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` is, points to, or (a training run) holds: average, else best, else last.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return resolve_checkpoint(_pointed_at(path))
    if (path / "model.safetensors").is_file():
        return path
    for name in ("average", "best", "last"):
        if (path / name).exists():
            return resolve_checkpoint(path / name)
    raise UserError(f"{path}: neither a checkpoint folder nor a run that has one")


_LONGEST_NAME = 255  # bytes


def _pointed_at(pointer: Path) -> Path:
    """The folder that a pointer file names, which lies beside it."""
    with pointer.open("rb") as file:
        content = file.read(_LONGEST_NAME + 2)
    name = content.decode("utf-8", errors="replace").strip()
    is_name = name.isprintable() and Path(name).name == name and name not in ("", "..")
    if len(content) > _LONGEST_NAME or not is_name:
        raise UserError(f"{pointer}: neither a checkpoint folder nor a file that names one beside it")
    folder = pointer.parent / name
    if not folder.is_dir():
        raise UserError(f"{pointer}: names {name!r}, and there is no such checkpoint folder beside it")
    return folder


def list_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    folders = [path for path in run.glob(f"{PREFIX}*") if path.is_dir() and _NAME.fullmatch(path.name)]
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
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
