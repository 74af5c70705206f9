"""Files that the folders of exported models have in common, independent of the toolkit.

In addition to the toolkit's own files, a folder contains `model.json`, the shape of the model, as in a checkpoint;
`tokenizer/`, `text.json` and `dict.<lang>.txt`, which convert text to ids and back, if the checkpoint has them;
`README.md`, the model card; and `checksums.json`, the SHA-256 of each file. This module does not load torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdmt.checksum import CHECKSUMS, file_sha256, read_checksums
from kdmt.errors import UserError
from kdmt.files import atomic_folder, write_json, write_text
from kdmt.models.description import FILE as DESCRIPTION_FILE
from kdmt.outputs import writing

CARD_FILE = "README.md"


def check_new(folder: Path) -> None:
    """Check that a folder or file does not exist yet. A broken symbolic link counts as existing."""
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder}: exists already; nothing was written")


@contextmanager
def described_folder(
    folder: Path,
    description: Mapping[str, object] | None,
    companions: Sequence[Path] = (),
    *,
    card: str | None = None,
) -> Iterator[Path]:
    """Yield a temporary folder for a toolkit's own files, then add the common files and rename it to `folder`.

    Args:
        folder: the new folder.
        description: content of `model.json`; None for no such file, in a format that describes the model itself.
        companions: files and folders to copy into the folder.
        card: content of `README.md` (`kdmt.interop.model_card`); None for no such file.

    Raises:
        UserError: if the folder exists, or another process is writing it.
    """
    with writing(folder):
        check_new(folder)  # once more: another process may have written it in the meantime
        with atomic_folder(folder) as aside:
            yield aside
            for companion in companions:
                if companion.is_dir():
                    shutil.copytree(companion, aside / companion.name)
                else:
                    shutil.copy2(companion, aside / companion.name)
            if description is not None:
                write_json(aside / DESCRIPTION_FILE, description)
            if card is not None:
                write_text(aside / CARD_FILE, card)
            files = sorted(path for path in aside.rglob("*") if path.is_file())
            write_json(aside / CHECKSUMS, {str(path.relative_to(aside)): file_sha256(path) for path in files})


def record_file(folder: Path, path: Path) -> None:
    """Add the checksum of a file that was written later to the checksums of a folder."""
    checksums = read_checksums(folder)
    write_json(folder / CHECKSUMS, {**checksums, str(path.relative_to(folder)): file_sha256(path)})
