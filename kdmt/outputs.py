"""Names and locks of outputs: nothing is written over, and no two processes write the same.

The lock of a file or folder is a file beside it. It ends with its process, however that ends; over NFS it holds between
machines.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

from kdmt.errors import UserError
from kdmt.files import PARTIAL


class Locked(UserError):
    """Another process holds the lock."""


def free_name(path: Path) -> Path:
    """The path, or where that is taken the first of `<name>.2`, `<name>.3` and so on that is not."""
    names = (path if number == 1 else path.with_name(f"{path.name}.{number}") for number in count(1))
    return next(name for name in names if not name.exists() and not name.is_symlink())


def open_lock(path: Path, ending: str = "lock") -> IO[str]:
    """Open the lock file of a file or folder; its parent folder exists."""
    return _open(path.parent / f".{path.name}.{ending}")


def _open(path: Path) -> IO[str]:
    return path.open("a+")  # writing, which a lock over NFS needs


def take(file: IO[str], *, shared: bool = False) -> bool:
    """Lock an open lock file without waiting; returns whether that succeeded."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def writing(path: Path, *, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of an output while the body writes it, and remove the lock file.

    Args:
        path: the file or folder; missing parent folders are created.
        wait: called before waiting for another process; without it, another process is an error.

    Raises:
        Locked: another process is writing to `path`, and `wait` is None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _locked_file(path, wait)
    try:
        yield
    finally:
        Path(file.name).unlink(missing_ok=True)  # before the lock is released: who waits for it notices and reopens
        file.close()


def _locked_file(path: Path, wait: Callable[[], None] | None) -> IO[str]:
    # named as what is half-written, so that what a kill leaves is swept with it
    lock = path.with_name(f"{PARTIAL}{path.name}.lock")
    while True:
        file = _open(lock)
        try:
            if not take(file):
                if wait is None:
                    raise Locked(f"{path}: another process is writing it; nothing was written")
                wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_current(file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its last holder removed it: the lock that counts is a new file


def _is_current(file: IO[str]) -> bool:
    """Whether the opened file is still the one under its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat())
    except FileNotFoundError:
        return False
