"""Stage folders on disk: symbolic links to other disks, and earlier states of a stage.

An earlier state is kept next to the current one: `<stage>.previous` is a complete state that was replaced,
`<stage>.unfinished` an incomplete one. Further states get numbers, `<stage>.previous.2` and so on; no state overwrites
another.
"""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

from kdmt.errors import UserError
from kdmt.files import PARTIAL, atomic_folder
from kdmt.outputs import free_name

_EARLIER = re.compile(r"\.(?:unfinished|previous|taken-back)(?:\.([1-9][0-9]*))?")  # taken-back: old versions
REMOVED = f"{PARTIAL}removed-"  # prefix of the name of a folder that is being removed


def real_folder(folder: Path) -> Path:
    """Return the folder itself, or the target of a symbolic link: files next to it are on the same disk.

    Raises:
        UserError: if the link points to itself.
    """
    if not folder.is_symlink():
        return folder
    try:
        return folder.resolve()
    except (RuntimeError, OSError):
        raise UserError(f"{folder}: a symbolic link that leads to itself") from None


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, through symbolic links whose target does not exist yet.

    Raises:
        UserError: if a link points into a folder that does not exist; its disk may not be mounted.
    """
    for path in (*reversed(folder.parents), folder):
        if path.is_symlink() and not path.exists():
            target = real_folder(path)
            if not target.parent.is_dir():
                raise UserError(
                    f"{path}: a symbolic link to {target}, and there is no folder {target.parent}: mount its disk, "
                    "or remove the link"
                )
            target.mkdir()
    folder.mkdir(parents=True, exist_ok=True)


def is_earlier_state(name: str, folder: str) -> bool:
    """Return whether a name is that of an earlier state of a folder."""
    return name.startswith(folder) and _EARLIER.fullmatch(name.removeprefix(folder)) is not None


def earlier_states(folder: Path) -> list[Path]:
    """Return the earlier states of a folder: unfinished ones first, each kind in the order of its numbers."""
    real = real_folder(folder)
    # look next to the link too, which may have replaced a folder that had earlier states
    names = dict.fromkeys([(real.parent, real.name), (folder.parent, folder.name)])
    found = [
        path
        for parent, name in names
        if parent.is_dir()
        for path in parent.iterdir()
        if is_earlier_state(path.name, name) and path.is_dir()
    ]
    return sorted(found, key=_order)


def _order(path: Path) -> tuple[int, int, str]:
    kinds = ("unfinished", "previous", "taken-back")
    kind = next(rank for rank, word in enumerate(kinds) if f".{word}" in path.name)
    number = path.name.rpartition(".")[2]
    return kind, int(number) if number.isdigit() else 1, str(path)


def aside_of(folder: Path) -> Path:
    """Return the free name under which a folder is kept when its stage is redone.

    It ends in `.previous` if the stage is complete, else in `.unfinished`.
    """
    real = real_folder(folder)
    ending = "previous" if (real / "manifest.json").is_file() else "unfinished"
    return free_name(real.with_name(f"{real.name}.{ending}"))


def move_aside(folder: Path) -> Path | None:
    """Rename a folder to an earlier state; an empty folder is removed. A symbolic link to it stays.

    Returns:
        The new name, None if there was no folder or an empty one.
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
    """Give an earlier state the name of its folder, which must be free.

    A state on another disk is copied to the disk of the folder, which may have become a link in the meantime.
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
    """Remove a folder, a file or a link. If it is interrupted, the rest does not have the name of an earlier state."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    aside = path if path.name.startswith(REMOVED) else path.with_name(f"{REMOVED}{path.name}")
    if aside != path:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    shutil.rmtree(aside)
