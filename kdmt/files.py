"""Files as the rest of the package reads and writes them: what may be opened, JSON, and errors that name the file."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdmt.errors import UserError

LARGEST_JSON = 256 << 20  # bytes; the vocabulary of a multilingual model takes 5 MB

# ----------------------------------------------------------------------------------------------------- what is opened

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_file(path: Path, *, missing: str = "there is no such file") -> None:
    """Refuse a path that is no ordinary file, without opening it: reading a pipe or a device may never end.

    Args:
        missing: the message where nothing has this name.

    Raises:
        UserError: nothing has this name, or it is a folder, a pipe, a socket or a device.
        OSError: the path cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except ValueError:  # a NUL in the name
        raise UserError(f"{str(path)!r}: no path has a NUL character") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: {describe_kind(mode)}, expected a file")


def describe_kind(mode: int) -> str:
    """Return what something that is not an ordinary file is, by its mode: "a folder", "a pipe", ..."""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


# --------------------------------------------------------------------------------------------------------------- JSON


def read_json(path: Path, *, missing: str = "there is no such file") -> Any:
    """Return the content of a JSON file.

    Args:
        missing: the message where there is no such file.

    Raises:
        UserError: there is no such file, or it is no JSON in UTF-8, holds a key twice, a number that is not finite
            or too many levels.
    """
    check_file(path, missing=missing)
    if path.stat().st_size > LARGEST_JSON:
        raise UserError(f"{path}: larger than {LARGEST_JSON >> 20} MB")
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        reason = f": {error}" if type(error) is _Refused else ""
        raise UserError(f"{path}: not valid JSON{reason}") from None


def read_json_object(path: Path, *, missing: str = "there is no such file") -> dict[str, Any]:
    """Return the object in a JSON file. See `read_json`."""
    content = read_json(path, missing=missing)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


class _Refused(ValueError):
    """JSON that Python reads and nothing of ours writes; the message says why."""


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON, is not UTF-8, holds a key twice, a number that is not finite or too many levels.
    """
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise _Refused("nested too deeply") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"the key {twice[:80]!r} is given twice")
    return made


def _refuse_constant(name: str) -> Any:
    raise _Refused(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Refused(f"{text[:80]} is too large a number")
    return value


# ------------------------------------------------------------------------------------------------------------- errors

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ABOUT_FILES = (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)  # whether or not one is named
# what a second try does not cure
LASTING = (*_FULL, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG)
_REASONS = {
    **dict.fromkeys(_FULL, "the disk is full"),
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EMFILE: "too many open files: raise the limit ('ulimit -n')",
    errno.EIO: "the disk cannot be read or written (input/output error)",
}


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Give errors of the operating system that name no file this one: writing to an open file does not name it.

    Raises:
        OSError: the body's, with `filename`.
    """
    try:
        yield
    except shutil.Error as error:  # of a copied folder: a list of (source, target, reason)
        raise _copy_error(error, path) from error
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno is None and type(error) is OSError:  # numpy's, when less is written than asked for
            reason = f"the disk is full, or the file larger than the system allows: {error}"
            raise OSError(errno.ENOSPC, reason, str(path)) from error
        if error.errno is not None:
            error.filename = str(path)
        raise


def _copy_error(error: shutil.Error, path: Path | str) -> OSError:
    """The first failure of a copied folder as an error of its own."""
    failures = error.args[0] if error.args else None
    if not isinstance(failures, list) or not failures:
        return OSError(errno.EIO, str(error), str(path))
    _, target, reason = failures[0]
    number = re.match(r"\[Errno (\d+)\]", str(reason))
    return (
        OSError(int(number[1]), os.strerror(int(number[1])), str(target))
        if number
        else OSError(errno.EIO, str(reason), str(target))
    )


def explain_number(number: int) -> str:
    """Return what an error number of the operating system means."""
    return _REASONS.get(number) or os.strerror(number)


def explain_os_error(error: OSError) -> str | None:
    """Return one line for an error of the operating system that concerns a file, None for any other.

    An error that names no file concerns one where a disk or the number of open files is at its limit.
    """
    named = error.filename is not None and not isinstance(error.filename, int)
    if error.errno is None or not (named or error.errno in _ABOUT_FILES):
        return None
    own = error.strerror not in (None, os.strerror(error.errno))
    reason = error.strerror if own else explain_number(error.errno)
    if not named:
        return reason if error.errno in (errno.EMFILE, errno.ENFILE) else f"the output: {reason}"
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(names)}: {reason}"
