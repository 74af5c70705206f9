"""Writing of new pipeline files: only complete and valid files, and never over an existing file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kdmt.config import load_unlocked_pipeline
from kdmt.errors import UserError
from kdmt.files import naming, partial_path
from kdmt.outputs import writing

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)


def write_pipeline_file(path: Path, text: str) -> None:
    """Write a pipeline file if its text is a valid pipeline.

    Raises:
        UserError: if the text is not valid, or the file exists.
    """
    aside = partial_path(path)
    with writing(path):
        try:
            with naming(path):
                aside.write_text(text, encoding="utf-8")
            try:
                load_unlocked_pipeline(aside)
            except UserError as error:
                raise UserError(str(error).removeprefix(f"{aside}: ")) from None
            _put(aside, path)
        except FileExistsError:
            raise UserError(f"{path}: exists already; nothing was written") from None
        finally:
            aside.unlink(missing_ok=True)


def _put(aside: Path, path: Path) -> None:
    """Rename a file unless the new name exists. On a file system without hard links, create an empty file first."""
    try:
        os.link(aside, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.touch(exist_ok=False)
        aside.replace(path)
