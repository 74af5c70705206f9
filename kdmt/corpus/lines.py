"""Text files of the project's own making: UTF-8, `\\n` ends a line and nothing else does.

Foreign files, with their byte order marks, carriage returns and broken bytes, come in through `fetch.open_lines`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path


def iterate_lines(path: Path) -> Iterator[str]:
    """Lines without their end, one at a time."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def read_lines(path: Path) -> list[str]:
    """All lines of a small file."""
    return list(iterate_lines(path))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Each line with its end."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
