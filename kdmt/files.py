"""Files: checks before opening, JSON, atomic writing of files and folders, errors that name the file.

`write_text`, `write_json`, `atomic_file` and `atomic_folder` write under a temporary name that begins with `PARTIAL`,
in the same folder, and rename at the end. A killed process may leave a file with a temporary name; all files and
folders with this prefix can be removed.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, Never

from kdmt.errors import UserError

LARGEST_JSON = 256 << 20  # bytes; the vocabulary of a multilingual model takes 5 MB
PARTIAL = ".partial-"  # prefix of the name of a file or folder that is being written
_LONGEST_VALUE = 80  # characters of a value that a message quotes

# ------------------------------------------------------------------------------------------------------ kinds of files

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_file(path: Path, *, missing: str = "there is no such file") -> None:
    """Check that a path is a regular file, without opening it: reading a pipe or a device may never end.

    Args:
        missing: message if the path does not exist.

    Raises:
        UserError: if the path does not exist, or is a folder, a pipe, a socket or a device.
        OSError: if the path cannot be examined.
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
    """Return the kind of an object that is not a regular file, by its mode: "a folder", "a pipe", ..."""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


# --------------------------------------------------------------------------------------------------------------- JSON


def read_json(path: Path, *, missing: str = "there is no such file") -> Any:
    """Return the content of a JSON file.

    Args:
        missing: message if the file does not exist.

    Raises:
        UserError: if the file does not exist, is too large or is not JSON in UTF-8, or if it has a duplicate key, a
            number that is not finite or too many levels.
    """
    check_file(path, missing=missing)
    if path.stat().st_size > LARGEST_JSON:
        raise UserError(f"{path}: larger than {LARGEST_JSON >> 20} MB")
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        reason = f": {error}" if type(error) is _Refused else ""
        raise UserError(f"{path}: not valid JSON{reason}") from None


def read_json_object(
    path: Path, *, required: Mapping[str, JsonType] | None = None, missing: str = "there is no such file"
) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        required: keys that the object must have, with the types of their values. See `check_keys`.
        missing: message if the file does not exist.

    Raises:
        UserError: as in `read_json`, or if the file has no object, or a required key is missing or of another type.
    """
    content = read_json(path, missing=missing)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    check_keys(content, required or {}, str(path))
    return content


def read_optional_json(path: Path, *, required: Mapping[str, JsonType] | None = None) -> dict[str, Any] | None:
    """Return the object in a JSON file, None if there is no such file. See `read_json_object`."""
    return read_json_object(path, required=required) if path.exists() else None


_TYPE_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}
JsonType = type | tuple[type, ...]  # types of a value: str, int, float (which an integer is too), bool, list, dict


def check_keys(values: Mapping[str, object], required: Mapping[str, JsonType], where: str) -> None:
    """Check that a JSON object has the required keys and that their values have the required types.

    Args:
        required: key -> type, or several types. `float` accepts integers; `int` does not accept true and false.
        where: beginning of the error message, usually the path of the file.

    Raises:
        UserError: if a key is missing or of another type; the message has `where` and the first such key.
    """
    for key, allowed in required.items():
        types = allowed if isinstance(allowed, tuple) else (allowed,)
        if key not in values:
            raise UserError(f"{where}: the key {key!r} is missing")
        if not any(_is_json_type(values[key], each) for each in types):
            shown, expected = repr(values[key]), " or ".join(_TYPE_NAMES[each] for each in types)
            raise UserError(f"{where}: {key!r} is {shown[:_LONGEST_VALUE]}, expected {expected}")


def _is_json_type(value: object, expected: type) -> bool:
    if expected is float:
        return type(value) in (int, float)
    return type(value) is expected


class _Refused(ValueError):
    """JSON that Python's parser accepts but kdmt rejects, with the reason as the message."""


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: if the text is not JSON or not UTF-8, or has a duplicate key, a number that is not finite or too
            many levels.
    """
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise _Refused("nested too deeply") from None


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"the key {twice[:80]!r} is given twice")
    return made


def _refuse_constant(name: str) -> Never:
    raise _Refused(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Refused(f"{text[:80]} is too large a number")
    return value


# ------------------------------------------------------------------------------------------------------ atomic writing


def partial_path(path: Path) -> Path:
    """Return the temporary name under which a file or folder is written, in the same folder."""
    return path.with_name(f"{PARTIAL}{path.name}")


@contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write a file to, and rename the file to `path` if the body succeeds.

    If the body raises, the temporary file is removed and an existing file at `path` is not changed.

    Args:
        sync: whether to flush the file to the disk before it is renamed, so that it is complete after a power failure
            too.

    Yields:
        The temporary path, in the same folder as `path`.

    Raises:
        OSError: if writing fails; the error names `path` instead of the temporary file or no file.
    """
    aside = partial_path(path)
    try:
        with _naming_instead(aside, path):
            yield aside
            if sync:
                sync_to_disk(aside)
            aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, and rename it to `path`, which must not exist, if the body succeeds.

    If the body raises, the temporary folder is removed. Missing parent folders are created.

    Yields:
        The temporary folder, in the same parent folder as `path`.
    """
    aside = partial_path(path)
    shutil.rmtree(aside, ignore_errors=True)  # left by a killed process
    with _naming_instead(aside, path):
        aside.mkdir(parents=True)
        try:
            yield aside
            aside.rename(path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def write_json(path: Path, values: object, *, indent: int | None = 1) -> None:
    """Write a JSON file atomically, for `read_json`.

    Raises:
        ValueError: if a number is not finite.
    """
    write_text(path, json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def sync_to_disk(path: Path) -> None:
    """Flush the content of a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------------------- errors

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ABOUT_FILES = (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)  # even if no file is named
# errors that a retry does not solve
LASTING = (*_FULL, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG)
_REASONS = {
    **dict.fromkeys(_FULL, "the disk is full"),
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EMFILE: "too many open files: raise the limit ('ulimit -n')",
    errno.EIO: "the disk cannot be read or written (input/output error)",
}


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Add a file name to errors of the operating system that have none, such as those of writing to an open file.

    Raises:
        OSError: the error of the body, with `filename`.
    """
    try:
        yield
    except shutil.Error as error:  # raised for a copied folder, with a list of (source, target, reason)
        raise _copy_error(error, path) from error
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno is None and type(error) is OSError:  # raised by NumPy after an incomplete write
            reason = f"the disk is full, or the file larger than the system allows: {error}"
            raise OSError(errno.ENOSPC, reason, str(path)) from error
        if error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def _naming_instead(aside: Path, path: Path) -> Iterator[None]:
    """Use the final name of a file in errors of the operating system that have none or the temporary one."""
    try:
        with naming(path):
            yield
    except OSError as error:
        if error.filename is not None and not isinstance(error.filename, int):
            error.filename = os.fsdecode(error.filename).replace(str(aside), str(path))
        raise


def _copy_error(error: shutil.Error, path: Path | str) -> OSError:
    """Return the first failure in copying a folder as an error of its own."""
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
    """Return the meaning of an error number of the operating system."""
    return _REASONS.get(number) or os.strerror(number)


def explain_os_error(error: OSError) -> str | None:
    """Return a one-line message for an error of the operating system that concerns a file, None for any other error.

    Errors about a full disk or too many open files, for example, concern a file even if they do not name one.
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
