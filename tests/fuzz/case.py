"""One hostile input: the damage, and the commands that are run on it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """`kdmt ARGUMENTS` in the input's folder.

    Attributes:
        arguments: arguments without the program's name.
        stdin: bytes of standard input.
        changes: prefixes of the paths that it may change when it succeeds.
        makes: path that it makes when it succeeds; nothing of it may exist when it is refused.
        lines: number of lines that it writes to standard output when it succeeds, None if unknown.
    """

    arguments: tuple[str, ...]
    stdin: bytes = b""
    changes: tuple[str, ...] = ()
    makes: str | None = None
    lines: int | None = None

    def __str__(self) -> str:
        return " ".join(["kdmt", *(argument[:200] for argument in self.arguments)]).encode(errors="replace").decode()


@dataclass(frozen=True)
class Case:
    """The damage to the files of the world, and the commands to run.

    Attributes:
        damage: description of the damage.
        commands: commands that are run one after the other until one is refused.
        again: command that must succeed after the damaged files are restored; None for the last of `commands`.
        refused: whether the damage must be noticed, because checksums differ or a number is impossible.
    """

    damage: str
    commands: tuple[Command, ...]
    again: Command | None = None
    refused: bool = False


def drawn(seed: int, kind: str, number: int) -> random.Random:
    """Return the random numbers for one input, which depend only on its name."""
    return random.Random(f"{seed}:{kind}:{number}")


# a few more than world.UPDATES
EXTENDED = "teacher.train.max_updates=22"


def stage(name: str, *sets: str, more: tuple[str, ...] = (), yaml: str = "tiny.yaml") -> Command:
    """Return a command that runs a stage of the tiny pipeline."""
    folder = {"student": "students"}.get(name, name)
    arguments = (name, yaml, *more, *(part for setting in sets for part in ("--set", setting)))
    results = ("scores.json", "significance.json", "diagnostics.json", "report.html")
    changes = tuple(f"runs/tiny/{each}" for each in (folder, *results))
    return Command(arguments, changes=changes)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")
