"""Names of the classes and functions in the pickles of a checkpoint file, found without running code in the file.

Only pickle operations on strings are followed. A name that a pickle composes in another way is reported as `HIDDEN`.
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
_PICKLES = 5  # in a file from before PyTorch 1.6: magic number, version, system, content, keys; storages follow
_MARK = object()


def is_zip(path: Path) -> bool:
    """Return whether PyTorch reads a file as a zip archive, the format since PyTorch 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def named_in(path: Path) -> set[str]:
    """Return `module.name` of everything that a file names, with Python 3's names.

    A damaged file is followed as far as possible.
    """
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
    """Yield the names in one pickle. Afterwards the position of the file is behind the end of the pickle."""
    stack: list[object] = []  # strings and marks; None for any other value
    memo: dict[int, object] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield _today(*str(argument).split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            yield _today(*stack[-2:])
        elif opcode.name in ("EXT1", "EXT2", "EXT4"):  # the name is given by a number
            yield HIDDEN
        _follow(opcode, argument, stack, memo)


def _today(module: object = None, name: object = None) -> str:
    """Return the name in Python 3 of a class or function. Pickles of protocol 2 use the names of Python 2."""
    if not (isinstance(module, str) and isinstance(name, str)):
        return HIDDEN
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _follow(opcode: pickletools.OpcodeInfo, argument: Any, stack: list[object], memo: dict[int, object]) -> None:
    """Apply an operation to the stack and the memo, according to its description in `pickletools`."""
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
