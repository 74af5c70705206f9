"""Stage folders on disk: symbolic links to other disks, and earlier states that are kept beside the current one.

`<stage>.previous` is a complete state that was redone, `<stage>.unfinished` an incomplete one; further ones get
numbers, `<stage>.previous.2` and so on. None takes the place of another.
"""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

from kdmt.errors import UserError
from kdmt.files import PARTIAL, atomic_folder
from kdmt.outputs import free_name

_EARLIER = re.compile(r"\.(?:unfinished|previous|taken-back)(?:\.([1-9][0-9]*))?")  # the last: of older versions
REMOVED = f"{PARTIAL}removed-"  # begins the names of what is being removed


def real_folder(folder: Path) -> Path:
    """The folder itself, or where the symbolic link leads: what is written beside it lies on the same disk.

    Raises:
        UserError: a link that leads to itself.
    """
    if not folder.is_symlink():
        return folder
    try:
        return folder.resolve()
    except (RuntimeError, OSError):
        raise UserError(f"{folder}: a symbolic link that leads to itself") from None


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, through symbolic links whose target is not there yet.

    Raises:
        UserError: a link leads into a folder that does not exist, as when its disk is not mounted.
    """
    for place in (*reversed(folder.parents), folder):
        if place.is_symlink() and not place.exists():
            target = real_folder(place)
            if not target.parent.is_dir():
                raise UserError(
                    f"{place}: a symbolic link to {target}, and there is no folder {target.parent}: mount its disk, "
                    "or remove the link"
                )
            target.mkdir()
    folder.mkdir(parents=True, exist_ok=True)


def is_earlier_state(name: str, folder: str) -> bool:
    """Whether a name is that of an earlier state of a folder."""
    return name.startswith(folder) and _EARLIER.fullmatch(name.removeprefix(folder)) is not None


def earlier_states(folder: Path) -> list[Path]:
    """The states that were moved aside from a folder: unfinished ones first, each kind in the order of its numbers."""
    real = real_folder(folder)
    # a link may have replaced a folder that had earlier states
    places = dict.fromkeys([(real.parent, real.name), (folder.parent, folder.name)])
    found = [
        path
        for place, name in places
        if place.is_dir()
        for path in place.iterdir()
        if is_earlier_state(path.name, name) and path.is_dir()
    ]
    return sorted(found, key=_order)


def _order(path: Path) -> tuple[int, int, str]:
    kind = next(place for place, word in enumerate(("unfinished", "previous", "taken-back")) if f".{word}" in path.name)
    number = path.name.rpartition(".")[2]
    return kind, int(number) if number.isdigit() else 1, str(path)


def aside_of(folder: Path) -> Path:
    """Where a stage's folder is kept when it is redone: `.previous` if it is complete, else `.unfinished`.

    The first name that is free, so that no state takes the place of another.
    """
    real = real_folder(folder)
    ending = "previous" if (real / "manifest.json").is_file() else "unfinished"
    return free_name(real.with_name(f"{real.name}.{ending}"))


def move_aside(folder: Path) -> Path | None:
    """Keep a folder's state beside it; an empty folder is removed. A symbolic link to it stays.

    Returns:
        Where it is kept, None if there was nothing.
    """
    real = real_folder(folder)
    if not real.is_dir():
        return None
    if not any(real.iterdir()):
        real.rmdir()
        return None
    aside = aside_of(real)
    real.rename(aside)
    return aside


def put_in_place(state: Path, folder: Path) -> None:
    """Give an earlier state the name of its folder, from which the current state was moved aside.

    A state on another disk than the folder, which became a link since, is copied to that disk.
    """
    if state.is_symlink():  # an older version renamed the link
        state.replace(folder) if folder.is_symlink() else state.rename(folder)
        return
    real = real_folder(folder)
    try:
        state.rename(real)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_folder(real) as copy:
            shutil.copytree(state, copy, symlinks=True, dirs_exist_ok=True)
        remove(state)


def remove(path: Path) -> None:
    """Remove a folder so that a kill half-way leaves nothing that looks like an earlier state; or a file, or a link."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    aside = path if path.name.startswith(REMOVED) else path.with_name(f"{REMOVED}{path.name}")
    if aside != path:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    shutil.rmtree(aside)
