"""`kdmt clean`: list or remove files of a pipeline that do not belong to the current state of its stages.

These are earlier states of stages (`kdmt.flow.folders`) and incomplete files of stopped runs. The current state of a
stage is never removed, and nothing is removed from a stage while a process works on it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kdmt.corpus.fetch import partial_download
from kdmt.corpus.given_text import text_sources
from kdmt.corpus.prepared import PARTIAL_SUFFIX
from kdmt.distill.blocks import BLOCKS
from kdmt.distill.imported import IMPORTING
from kdmt.distill.verification import SCRATCH
from kdmt.errors import UserError
from kdmt.files import PARTIAL, partial_path
from kdmt.flow.folders import REMOVED, earlier_states, is_earlier_state, real_folder, remove
from kdmt.flow.stage import locked
from kdmt.models.checkpoint_folder import DAMAGED, num_updates
from kdmt.outputs import writing
from kdmt.stages.given_checkpoints import given_checkpoints
from kdmt.stages.pipeline import build_stages
from kdmt.stages.training_inputs import ALIGNMENTS
from kdmt.stages.workspace import Workspace
from kdmt.training_sets import stage_folders

_OTHERS = {"blocks.old": "old blocks of another cache", DAMAGED: "a damaged checkpoint"}
_HALF_DONE = (f"{PARTIAL}*", f"{SCRATCH}*", "blocks.old*", f"{DAMAGED}*")  # in a stage's folder


@dataclass(frozen=True)
class Kept:
    """A folder or file that may be removed.

    Attributes:
        path: path of the folder or file.
        owner: folder of the stage, or download, that is locked during the removal.
        about: description for the user.
        needed_by: setting that contains the path and therefore prevents its removal; empty if there is none.
        is_download: whether the owner is a download.
    """

    path: Path
    owner: Path
    about: str
    needed_by: str = ""
    is_download: bool = False

    @property
    def identity(self) -> tuple[Path, int]:
        """Return the path and the inode, which differs for another file with the same path."""
        return self.path, self.path.lstat().st_ino

    @property
    def size(self) -> int:
        """Return the size of all files in bytes; 0 for a symbolic link, because its target is not removed."""
        if self.path.is_symlink():
            return 0
        if self.path.is_file():
            return self.path.stat().st_size
        files = (Path(folder) / name for folder, _, names in os.walk(self.path) for name in names)
        return sum(file.lstat().st_size for file in files)


def clean(workspace: Workspace, names: Sequence[str], *, removing: bool, show: Callable[[str], None]) -> None:
    """List, and remove on request, files that do not belong to the current state of the stages of a pipeline.

    Args:
        names: paths to which the list is restricted, as listed or relative to the pipeline's folder; empty for all.
        removing: whether to remove the listed files.
        show: function that prints a line.

    Raises:
        UserError: if a name is not in the list, a setting of the pipeline needs it, or a process works on its stage.
    """
    found = _wanted(workspace, names)
    identities = {kept.identity for kept in found}
    with ExitStack() as locks:
        if removing:
            for owner, is_download in dict.fromkeys((kept.owner, kept.is_download) for kept in found):
                locks.enter_context(writing(owner) if is_download else locked(owner))
            # list again, because another process may have moved states before they were locked
            found = [kept for kept in _wanted(workspace, names) if kept.identity in identities]
        if not found:
            show(f"{workspace.root}: no earlier states and nothing half-done")
            return
        removable = [kept for kept in found if not kept.needed_by]
        total = f"{len(removable)}, {_in_units(_list(found, show))}"
        if not removing:
            show(f"{total} to remove; nothing was removed: --yes does, with names after the pipeline file only these")
            return
        for kept in removable:
            remove(kept.path)
        show(f"{total} removed")


def _wanted(workspace: Workspace, names: Sequence[str]) -> list[Kept]:
    found = list(find_kept(workspace))
    return [_named(name, found, workspace) for name in dict.fromkeys(names)] if names else found


def _list(found: Sequence[Kept], show: Callable[[str], None]) -> int:
    """Show a line for each path, and return the number of bytes that may be removed."""
    total = 0
    width = max(len(str(kept.path)) for kept in found)
    for kept in found:
        size = kept.size
        total += 0 if kept.needed_by else size
        needed = f"; not removed: {kept.needed_by} names it" if kept.needed_by else ""
        show(f"{kept.path!s:<{width}}  {_in_units(size):>8}  {kept.about}{needed}")
    return total


def find_kept(workspace: Workspace) -> Iterator[Kept]:
    """Yield everything that may be removed, by stage."""
    needed = {os.path.realpath(path): setting for setting, path in given_checkpoints(workspace.config)}
    for folder in _stage_folders(workspace):
        for state in earlier_states(folder):
            inside = (setting for path, setting in needed.items() if Path(path).is_relative_to(state.resolve()))
            yield Kept(state, folder, _about(state), next(inside, ""))
        for path in _half_done(folder):
            kinds = (about for start, about in _OTHERS.items() if path.name.startswith(start))
            yield Kept(path, folder, next(kinds, "half-done, of a run that was stopped"))
    for source in text_sources(workspace.config.prepare):
        for path, download in partial_download(source, workspace.layout.downloads).items():
            yield Kept(path, download, "half a download, which a rerun goes on from", is_download=True)


def _stage_folders(workspace: Workspace) -> list[Path]:
    """Return the folders of stages, including stages that are no longer in the pipeline but have earlier states."""
    root = workspace.root
    own = {stage.folder.name for stage in build_stages(workspace).all() if stage.folder.parent == root}
    locations = [
        (root, "|".join(sorted(own | set(stage_folders().values())))),
        (root / "knowledge", "|".join(stage_folders())),
        (root / ALIGNMENTS, f"({'|'.join(stage_folders())})(-[0-9a-f]{{8}})?"),
        (root / "teacher", "stage_[0-9]+"),
        *((students, "seed_[0-9]+") for students in sorted(root.glob("students/*/"))),
        *((seeds, "stage_[0-9]+") for seeds in sorted(root.glob("students/*/seed_*/"))),
    ]
    found: dict[Path, None] = {}
    for location, names in locations:
        for path in sorted(location.iterdir()) if location.is_dir() else []:
            name = path.name.removeprefix(REMOVED).partition(".")[0]
            if re.fullmatch(names, name):
                found[location / name] = None
    return list(found)


def _half_done(folder: Path) -> list[Path]:
    real = real_folder(folder)
    outside = [
        path for path in real.parent.glob(f"{REMOVED}*") if is_earlier_state(path.name.removeprefix(REMOVED), real.name)
    ]
    outside.append(partial_path(real))
    if folder.name == "prepare":
        outside.append(real.with_name(f"{real.name}{PARTIAL_SUFFIX}"))
    if folder.name == "imported":
        outside += real.parent.glob(f"{IMPORTING}*")
    inside = [path for pattern in _HALF_DONE for path in real.glob(pattern)]
    return sorted(path for path in (*outside, *inside) if path.exists())


def _about(state: Path) -> str:
    """Return a description of a state: whether it is complete, and its number of updates or blocks."""
    if state.is_symlink():
        return f"a symbolic link to {state.resolve()}; the link alone is removed"
    complete = "complete" if (state / "manifest.json").is_file() else "unfinished"
    blocks = sum(1 for _ in (state / BLOCKS).glob("[0-9]*"))
    if updates := num_updates(state):
        return f"{complete}, {updates:,} updates"
    return f"{complete}, {blocks:,} blocks" if blocks else complete


def _named(name: str, found: Sequence[Kept], workspace: Workspace) -> Kept:
    wanted = {_place(folder / name) for folder in (Path(), workspace.root)}
    for kept in found:
        if _place(kept.path) in wanted:
            if kept.needed_by:
                raise UserError(f"{kept.path}: {kept.needed_by} names it; nothing was removed")
            return kept
    raise UserError(f"{name}: not among what `kdmt clean` lists; nothing was removed")


def _place(path: Path) -> Path:
    """Return the resolved path, without following a symbolic link at its end."""
    return path.parent.resolve() / path.name


def _in_units(size: int) -> str:
    for unit, bytes_of in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_of:
            return f"{size / bytes_of:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
