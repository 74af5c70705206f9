"""SHA-256 checksums of files, and of all files of a checkpoint."""

from __future__ import annotations

import hashlib
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath

from kdmt.errors import UserError
from kdmt.files import check_file, naming, read_json_object


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file.

    Raises:
        UserError: if the file does not exist.
    """
    check_file(path)
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, or of the names and SHA-256 of all files of a folder.

    Raises:
        UserError: if there is neither.
    """
    if not path.is_dir():
        return known_sha256(path)
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    listed = "".join(f"{known_sha256(file)} {name}\n" for name, file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


CHECKSUMS = "checksums.json"
# the last one is Bergamot's, with the languages: model.ende.intgemm.alphas.bin
WEIGHTS = ("model.safetensors", "model.bin", "model.onnx", "encoder_model.onnx", "model.npz", "model.*.intgemm.*.bin")
# files that are read from a checkpoint or an exported model and therefore must be listed; other files need not be
_READ = (
    *WEIGHTS,
    *("model.json", "training_state.*", "tokenizer/*", "text.json", "dict.*.txt"),
    *("config.json", "*vocabulary.*", "symbols.json", "vmap.txt", "translate.json"),
    *("onnx.json", "*.onnx", "*.onnx.data"),
)


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the hex SHA-256 of each file of a checkpoint or an exported model, by its path within the folder.

    Raises:
        UserError: if there is no `checksums.json`, it is not valid, or it does not list the model.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        raise UserError(f"{folder}: not a checkpoint: it has no {CHECKSUMS}")
    checksums = read_json_object(path)
    for name, sha256 in checksums.items():
        if not is_below(name):
            raise UserError(f"{path}: {name[:80]!r} is not the name of a file in the folder")
        if not (isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256)):
            raise UserError(f"{path}: {name[:80]!r} has no sha256")
    if "model.json" not in checksums or not any(fnmatchcase(name, kind) for name in checksums for kind in WEIGHTS):
        raise UserError(f"{path}: lists no model: model.json and one of {', '.join(WEIGHTS)} belong there")
    return checksums


def is_below(name: str) -> bool:
    """Return whether a name is a relative path within its folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and name.isprintable()


def verify_checkpoint(folder: Path) -> None:
    """Compare every file of a checkpoint or an exported model with its checksum.

    Raises:
        UserError: if a file is missing, not listed, or has a checksum mismatch; the message names the file.
    """
    checksums = read_checksums(folder)
    for path in sorted(found for pattern in _READ for found in folder.glob(pattern)):
        if str(path.relative_to(folder)) not in checksums:
            raise UserError(f"{path}: not listed in {CHECKSUMS}: nothing says that it belongs to the model")
    for name, expected in checksums.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: the checkpoint's file is missing")
        if file_sha256(path) != expected:
            raise UserError(f"{path}: damaged: its sha256 is not the one in checksums.json")


def known_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, from a cache if its size and modification time have not changed.

    See `file_sha256`.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    return _remembered(path.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def _remembered(path: Path, _size: int, _mtime_ns: int) -> str:
    return file_sha256(path)
