"""Run all inputs one after the other: make, run and judge them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from fuzz.case import Case, Command, drawn
from fuzz.kinds import KINDS
from fuzz.server import Ended, Entry, run_command
from fuzz.verdict import Fault, Tree, judge, look_at
from fuzz.world import World


@dataclass(frozen=True)
class Input:
    """The name of an input; together with the seed it determines the input."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


@dataclass(frozen=True)
class Result:
    input: Input
    damage: str
    commands: tuple[str, ...]
    codes: tuple[int, ...]
    faults: tuple[Fault, ...]
    message: str  # the last line of standard error


def planned(count: int, kinds: Iterable[str] = KINDS) -> list[Input]:
    """Return `count` inputs, evenly distributed over the kinds."""
    names = list(kinds)
    inputs = [Input(names[index % len(names)], index // len(names)) for index in range(count)]
    return sorted(inputs, key=lambda each: names.index(each.kind))


class Runner:
    """Runs inputs in copies of one world.

    Args:
        seed: seed of the inputs, used together with their names.
        limit_seconds: time after which a command counts as hanging.
        entry: program to run (default: kdmt).
    """

    def __init__(self, world: World, *, seed: int, limit_seconds: float = 60.0, entry: Entry | None = None) -> None:
        self.world, self.seed, self.limit_seconds, self.entry = world, seed, limit_seconds, entry

    def run(self, each: Input, *, keep: Path | None = None) -> Result:
        """Make an input and run its commands until one is refused.

        Args:
            keep: new folder to which the input is copied before anything is run.
        """
        kind = KINDS[each.kind]
        for library in kind.libraries:
            import_module(library)
        with self._folder() as folder:
            self.world.copy(kind.parts, folder)
            whole = look_at(folder)
            case = kind.damage(drawn(self.seed, each.kind, each.number), folder)
            damaged = look_at(folder)
            if keep is not None:
                shutil.copytree(folder, keep, symlinks=True, copy_function=_copy_what_can_be_read)
            return self._judged(each, case, folder, whole, damaged)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="kdmt-fuzz-", dir=self.world.folder.parent) as name:
            yield Path(name)

    def _judged(self, each: Input, case: Case, folder: Path, whole: Tree, damaged: Tree) -> Result:
        faults: list[Fault] = []
        codes: list[int] = []
        message = ""
        before = damaged
        for command in case.commands:
            ended = self._run(command, folder)
            after = look_at(folder)
            codes.append(ended.code)
            faults += judge(ended, command, before, after)
            message = (ended.err.decode(errors="replace").strip().splitlines() or [""])[-1]
            before = after
            if ended.code != 0:
                break
        if case.refused and codes[-1] == 0:
            faults.append(Fault("accepted", "it succeeded, and the damage is one that has to be noticed"))
        if codes[-1] == 2 and not faults and self._mend(folder, whole, damaged):
            faults += self._blocked(case.again or case.commands[len(codes) - 1], folder)
        commands = tuple(str(command) for command in case.commands[: len(codes)])
        return Result(each, case.damage, commands, tuple(codes), tuple(faults), message)

    def _run(self, command: Command, folder: Path) -> Ended:
        return run_command(
            command.arguments, folder, stdin=command.stdin, limit_seconds=self.limit_seconds, entry=self.entry
        )

    def _mend(self, folder: Path, whole: Tree, damaged: Tree) -> bool:
        """Restore what was damaged; return False if its folder no longer exists."""
        changed = sorted(path for path in whole.keys() | damaged.keys() if whole.get(path) != damaged.get(path))
        for path in changed:
            here = folder / path
            is_folder = here.is_dir() and not here.is_symlink()
            if is_folder and whole.get(path) != "folder":
                shutil.rmtree(here)
            elif not is_folder and os.path.lexists(here):
                here.unlink()
        for path in changed:
            here, there = folder / path, self.world.folder / path
            if path not in whole:
                continue
            if not here.parent.is_dir():
                return False
            if whole[path] == "folder":
                here.mkdir(exist_ok=True)
            else:
                shutil.copy2(there, here, follow_symlinks=False)
        return True

    def _blocked(self, command: Command, folder: Path) -> list[Fault]:
        """Return a fault if files left behind prevent the restored input from being read."""
        ended = self._run(command, folder)
        if ended.code == 0:
            return []
        if ended.hung:
            return [Fault("hang", f"with whole files {command} has no end within the time limit")]
        reason = ended.err.decode(errors="replace").strip()[-300:]
        return [Fault("harmed", f"with whole files {command} is refused afterwards: {reason}")]


def _copy_what_can_be_read(source: str, target: str) -> None:
    if Path(source).is_file():
        shutil.copy2(source, target)
