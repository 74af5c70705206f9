"""One hostile input: what was damaged, and the commands that are given it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """`kdmt ARGUMENTS` in the input's folder.

    Attributes:
        arguments: without the program's name.
        stdin: what it reads from standard input.
        changes: beginnings of the paths that it may change when it succeeds.
        makes: a path that it makes when it succeeds, and of which nothing is there when it is refused.
        lines: how many lines it writes to standard output when it succeeds, None where that is not known.
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
    """What was done to the files of the world.

    Attributes:
        damage: a description.
        commands: run one after the other until one is refused.
        again: a command that has to succeed once the damaged files are whole again; None for the last of `commands`.
        refused: whether the damage is one that has to be noticed: checksums tell, or there is no such number.
    """

    damage: str
    commands: tuple[Command, ...]
    again: Command | None = None
    refused: bool = False


def drawn(seed: int, kind: str, number: int) -> random.Random:
    """The random numbers that one input is made from: of nothing but its name."""
    return random.Random(f"{seed}:{kind}:{number}")


# a few more than world.UPDATES
EXTENDED = "teacher.train.max_updates=22"


def stage(name: str, *sets: str, more: tuple[str, ...] = (), yaml: str = "tiny.yaml") -> Command:
    """A stage of the tiny pipeline."""
    folder = {"student": "students"}.get(name, name)
    arguments = (name, yaml, *more, *(part for setting in sets for part in ("--set", setting)))
    changes = tuple(f"runs/tiny/{each}" for each in (folder, "scores.json", "significance.json", "report.html"))
    return Command(arguments, changes=changes)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")
