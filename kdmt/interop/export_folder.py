"""Folders that hold an exported model: what they have in common, whatever the toolkit they are for.

Beside the toolkit's own files lie `model.json`, the shape of the model, as in a checkpoint; `tokenizer/`, `text.json`
and `dict.<lang>.txt`, which turn text into ids and back, where the checkpoint has them; and `checksums.json`, the
sha256 of each file.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdmt.checksum import CHECKSUMS, file_sha256, read_checksums
from kdmt.errors import UserError
from kdmt.files import atomic_folder, write_json
from kdmt.models.build import describe_model
from kdmt.models.transformer import Transformer
from kdmt.outputs import writing


def check_new(folder: Path) -> None:
    """Refuse a folder or file that exists, as a symbolic link to nothing does."""
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder}: exists already; nothing was written")


@contextmanager
def exported_folder(folder: Path, model: Transformer, companions: Sequence[Path]) -> Iterator[Path]:
    """A folder for a toolkit's own files, which gets the others and its name at the end, or is removed.

    Args:
        folder: the new folder.
        companions: files and folders copied beside the model.
    """
    with described_folder(folder, describe_model(model), companions) as aside:
        yield aside


@contextmanager
def described_folder(folder: Path, description: Mapping[str, Any], companions: Sequence[Path] = ()) -> Iterator[Path]:
    """As `exported_folder`, for a model of any kind.

    Args:
        description: what `model.json` says.

    Raises:
        UserError: the folder exists, or another process is writing it.
    """
    with writing(folder):
        check_new(folder)  # again: another process may have written it since
        yield from _described(folder, description, companions)


def _described(folder: Path, description: Mapping[str, Any], companions: Sequence[Path]) -> Iterator[Path]:
    with atomic_folder(folder) as aside:
        yield aside
        for companion in companions:
            if companion.is_dir():
                shutil.copytree(companion, aside / companion.name)
            else:
                shutil.copy2(companion, aside / companion.name)
        write_json(aside / "model.json", description)
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        write_json(aside / CHECKSUMS, {str(path.relative_to(aside)): file_sha256(path) for path in files})


def record_file(folder: Path, path: Path) -> None:
    """Enter a file that came later into a folder's checksums."""
    checksums = read_checksums(folder)
    write_json(folder / CHECKSUMS, {**checksums, str(path.relative_to(folder)): file_sha256(path)})
