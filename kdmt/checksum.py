"""The sha256 of files, by which everything on disk is known."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from kdmt.errors import UserError


def file_sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal.

    Raises:
        UserError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None


def verify_checkpoint(folder: Path) -> None:
    """Compare every file with its checksum.

    Raises:
        UserError: naming the file that is missing or differs.
    """
    try:
        checksums = json.loads((folder / "checksums.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: not a checkpoint: it has no checksums.json") from None
    except ValueError:
        raise UserError(f"{folder / 'checksums.json'}: not valid JSON") from None
    for name, expected in checksums.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: the checkpoint's file is missing")
        if file_sha256(path) != expected:
            raise UserError(f"{path}: damaged: its sha256 is not the one in checksums.json")


def known_sha256(path: Path) -> str:
    """As `file_sha256`, but a file that was read before in this process and not touched since is not read again."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    return _remembered(path.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def _remembered(path: Path, _size: int, _mtime_ns: int) -> str:
    return file_sha256(path)
