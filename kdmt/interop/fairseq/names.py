"""What a checkpoint file names: the classes and functions of its pickles, found without running anything.

Operations are followed as far as strings go. Of a name that a pickle puts together in another way it is said that there
is one.
"""

from __future__ import annotations

import itertools
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

HIDDEN = "something whose name it hides"
_PICKLES = 5  # of a file of before PyTorch 1.6: magic number, version, system, content, keys; then storages
_MARK = object()


def is_zip(path: Path) -> bool:
    """Whether PyTorch takes a file for a zip archive, its format since 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def named_in(path: Path) -> set[str]:
    """`module.name` of all that a file names, in Python 3's names; of a damaged file, as far as it can be followed."""
    found: set[str] = set()
    with suppress(Exception):  # a damaged file can fail in any way
        for name in _of_archive(path) if is_zip(path) else _of_stream(path):
            found.add(name)
    return found


def _of_archive(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.rpartition("/")[2] == "data.pkl":
                with archive.open(member) as file:
                    yield from _of_pickle(file)


def _of_stream(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for _ in range(_PICKLES):
            yield from _of_pickle(file)


def _of_pickle(file: IO[bytes]) -> Iterator[str]:
    """Of one pickle; the file is left behind its end."""
    stack: list[object] = []  # strings and marks; None for anything else
    memo: dict[int, object] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield _today(*str(argument).split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            yield _today(*stack[-2:])
        elif opcode.name in ("EXT1", "EXT2", "EXT4"):  # by number
            yield HIDDEN
        _follow(opcode, argument, stack, memo)


def _today(module: object = None, name: object = None) -> str:
    """Protocol 2 has the names of Python 2."""
    if not (isinstance(module, str) and isinstance(name, str)):
        return HIDDEN
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _follow(opcode: pickletools.OpcodeInfo, argument: Any, stack: list[object], memo: dict[int, object]) -> None:
    """What an operation does to the stack, by its description in `pickletools`."""
    kind = opcode.name
    if kind in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if kind == "MEMOIZE" else argument] = stack[-1] if stack else None
        return
    top = stack[-1] if stack else None
    taken = opcode.stack_before
    if pickletools.markobject in taken:
        while stack and stack.pop() is not _MARK:
            pass
        taken = list(itertools.takewhile(lambda each: each is not pickletools.markobject, taken))
    if taken:
        del stack[-len(taken) :]
    if kind == "MARK":
        stack.append(_MARK)
    elif kind == "DUP":
        stack += [top, top]
    elif kind in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo.get(argument))
    elif kind.endswith(("UNICODE", "UNICODE8", "STRING")):
        stack.append(argument)
    else:
        stack += [None] * len(opcode.stack_after)
