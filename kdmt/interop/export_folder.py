"""Folders of exported models: the files that they have in common, whatever toolkit they are for.

Besides the toolkit's own files they hold `model.json`, the shape of the model, as in a checkpoint; `tokenizer/`,
`text.json` and `dict.<lang>.txt`, which convert text to ids and back, where the checkpoint has them; and
`checksums.json`, the sha256 of each file. Nothing here loads torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdmt.checksum import CHECKSUMS, file_sha256, read_checksums
from kdmt.errors import UserError
from kdmt.files import atomic_folder, write_json
from kdmt.models.description import FILE as DESCRIPTION_FILE
from kdmt.outputs import writing


def check_new(folder: Path) -> None:
    """Refuse a folder or file that exists, as a symbolic link to nothing does."""
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder}: exists already; nothing was written")


@contextmanager
def described_folder(
    folder: Path, description: Mapping[str, object], companions: Sequence[Path] = ()
) -> Iterator[Path]:
    """Give a temporary folder for a toolkit's own files, which gets the common files and its name at the end.

    Args:
        folder: the new folder.
        description: content of `model.json`.
        companions: files and folders that are copied into it.

    Raises:
        UserError: the folder exists, or another process is writing it.
    """
    with writing(folder):
        check_new(folder)  # again: another process may have written it since
        with atomic_folder(folder) as aside:
            yield aside
            for companion in companions:
                if companion.is_dir():
                    shutil.copytree(companion, aside / companion.name)
                else:
                    shutil.copy2(companion, aside / companion.name)
            write_json(aside / DESCRIPTION_FILE, description)
            files = sorted(path for path in aside.rglob("*") if path.is_file())
            write_json(aside / CHECKSUMS, {str(path.relative_to(aside)): file_sha256(path) for path in files})


def record_file(folder: Path, path: Path) -> None:
    """Add a file that was written later to the checksums of a folder."""
    checksums = read_checksums(folder)
    write_json(folder / CHECKSUMS, {**checksums, str(path.relative_to(folder)): file_sha256(path)})
