"""Reading of files whose lines begin with the index of a line of the training text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from kdmt.corpus.text_files import open_lines
from kdmt.errors import UserError

_MAX_DIGITS = 40  # int() raises an error for very long numbers


def indexed_lines(path: Path, count: int) -> Iterator[tuple[int, int, str]]:
    """Yield the number of each line of a file, its index and the text after it.

    Raises:
        UserError: if a line has no index, or one that is not below `count`; the message names the line.
    """
    lines: Iterable[str] = open_lines(path, member=None, name=str(path))
    for number, line in enumerate(lines, start=1):
        index, tab, text = line.partition("\t")
        if not (tab and index.isascii() and index.isdigit()):
            raise UserError(f"{path}:{number}: expected index<TAB>translation, found {line[:40]!r}")
        if len(index) > _MAX_DIGITS or int(index) >= count:
            shown = index[:_MAX_DIGITS]
            raise UserError(f"{path}:{number}: index {shown}, but the training source has the lines 0 to {count - 1}")
        yield number, int(index), text
