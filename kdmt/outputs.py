"""Names and locks of outputs: nothing is overwritten, and no two processes write the same output.

The lock of a file or folder is a file in the same folder. The operating system releases it when the process ends. On
NFS it holds between machines.
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
    """Error raised if another process holds the lock."""


def free_name(path: Path) -> Path:
    """Return the path, or if it exists the first of `<name>.2`, `<name>.3`, ... that does not exist."""
    names = (path if number == 1 else path.with_name(f"{path.name}.{number}") for number in count(1))
    return next(name for name in names if not name.exists() and not name.is_symlink())


def open_lock(path: Path, ending: str = "lock") -> IO[str]:
    """Open the lock file of a file or folder, whose parent folder must exist."""
    return _open(path.parent / f".{path.name}.{ending}")


def _open(path: Path) -> IO[str]:
    return path.open("a+")  # for writing, as locks on NFS require


def take(file: IO[str], *, shared: bool = False) -> bool:
    """Lock an open lock file without waiting, and return whether that succeeded."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def writing(path: Path, *, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of an output while the body writes it, and remove the lock file.

    Args:
        path: path of the file or folder. Missing parent folders are created.
        wait: called before waiting for another process. If it is None, another process is an error.

    Raises:
        Locked: if another process is writing to `path` and `wait` is None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _locked_file(path, wait)
    try:
        yield
    finally:
        Path(file.name).unlink(missing_ok=True)  # before the lock is released, so that a waiting process reopens it
        file.close()


def _locked_file(path: Path, wait: Callable[[], None] | None) -> IO[str]:
    # with the prefix of unfinished files, so that a lock file of a killed process is removed with them
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
        file.close()  # the last holder removed the file: the lock is a new file now


def _is_current(file: IO[str]) -> bool:
    """Return whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat())
    except FileNotFoundError:
        return False
