"""Embeddings of lines: a `.npy` file, made by the user or by an external command.

A command reads a JSON object `{"text": LINE}` for each line from standard input and writes `{"embedding": [NUMBERS]}`
for each to standard output, in the same order. What was computed is kept in `FILE.npy.part`, so that an interrupted run
continues with the next line. `FILE.npy.json` records the command and the text.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from kdmt.errors import UserError
from kdmt.files import check_file, parse_json, read_optional_json, sync_to_disk, write_json

_READ_BYTES = 1 << 16
_SHOWN = 80  # characters of an answer in messages
_MAX_ANSWER = 16 << 20  # bytes of a line
_ITEM = np.dtype("<f4")


def open_embeddings(path: Path, num_lines: int) -> NDArray[np.floating]:
    """Open a `.npy` file of numbers [N, D] without reading it into memory.

    Raises:
        UserError: if there is no such file, it is of another format or type, or its number of rows is not that of the
            lines.
    """
    check_file(path)
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: not a .npy file of numbers: {error}") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f" or not found.shape[1]:
        raise UserError(f"{path}: expected a .npy file of floating-point numbers with two dimensions")
    if len(found) != num_lines:
        raise UserError(f"{path}: {len(found):,} embeddings for {num_lines:,} lines")
    return found


@dataclass(frozen=True)
class EmbeddingCommand:
    """External command that computes embeddings.

    Attributes:
        command: command line, split as a shell would.
        timeout: maximum time in seconds without an answer.
    """

    command: str
    timeout: float = 600.0

    def write(
        self,
        path: Path,
        lines: Callable[[], Iterable[str]],
        num_lines: int,
        text_sha256: str,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Write the embeddings of lines to a `.npy` file, whole or not at all.

        Args:
            lines: function that returns the lines.
            num_lines: number of lines.
            text_sha256: SHA-256 of the text, by which an interrupted run recognises its text.
            progress: function called with the number of lines that are done.

        Raises:
            UserError: if the command fails, stops early, does not answer in time, or an answer is not an embedding.
        """
        part, record_path = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
        record = {"command": self.command, "text_sha256": text_sha256}
        known = read_optional_json(record_path)
        dimension = None if known is None or not part.is_file() else known.get("dimension")
        if known is not None and {name: known.get(name) for name in record} != record:
            raise UserError(f"{part}: begun for another text or by another command: remove it and {record_path.name}")
        done = 0 if not isinstance(dimension, int) else _truncate(part, num_lines, dimension)
        if done < num_lines:
            with _answers(self, islice(lines(), done, None)) as answers, part.open("ab") as file:
                for number, answer in enumerate(islice(answers, num_lines - done), start=done + 1):
                    values = _parse(answer, number, dimension)
                    if dimension is None:
                        dimension = len(values)
                        file.truncate(0)
                        file.write(_header(num_lines, dimension))
                        write_json(record_path, {**record, "dimension": dimension})
                    file.write(values.tobytes())
                    if number % 1000 == 0:
                        progress(number)
        sync_to_disk(part)
        write_json(_record_path(path), record)
        part.replace(path)
        record_path.unlink(missing_ok=True)

    def check(self, path: Path, text_sha256: str) -> None:
        """Check that existing embeddings were made by this command from the text.

        Raises:
            UserError: if they were not, or it is not known.
        """
        known = read_optional_json(_record_path(path))
        if known == {"command": self.command, "text_sha256": text_sha256}:
            return
        made = "not recorded as made by a command" if known is None else "made for another text or by another command"
        raise UserError(f"{path}: {made}: remove it to run the command, or leave out the command to use it")


def _record_path(path: Path) -> Path:
    """Return the path of the record of the command and the text that embeddings were made by."""
    return path.with_name(f"{path.name}.json")


def _header(num_lines: int, dimension: int) -> bytes:
    made = BytesIO()
    values = {"descr": _ITEM.str, "fortran_order": False, "shape": (num_lines, dimension)}
    np.lib.format.write_array_header_1_0(made, values)
    return made.getvalue()


def _truncate(part: Path, num_lines: int, dimension: int) -> int:
    """Remove an incomplete row at the end of the file, and return the number of complete rows."""
    start, row = len(_header(num_lines, dimension)), dimension * _ITEM.itemsize
    rows = max(0, (part.stat().st_size - start) // row)
    os.truncate(part, start + rows * row)
    return min(rows, num_lines)


def _parse(answer: bytes, line: int, dimension: int | None) -> NDArray[np.float32]:
    shown = answer[:_SHOWN].decode(errors="replace")
    try:
        found = parse_json(answer)
    except ValueError:
        raise UserError(f"the command's answer for line {line} is not JSON: {shown!r}") from None
    values = found.get("embedding") if isinstance(found, dict) else None
    if not isinstance(values, list) or not values or not all(type(each) in (int, float) for each in values):
        raise UserError(f"the command's answer for line {line} has no list of numbers 'embedding': {shown!r}")
    if dimension is not None and len(values) != dimension:
        raise UserError(f"the command's answer for line {line} has {len(values)} numbers, those before {dimension}")
    if not all(abs(each) < 3e38 for each in values):
        raise UserError(f"the command's answer for line {line} has a number that is too large")
    return np.array(values, dtype=_ITEM)


@contextmanager
def _answers(command: EmbeddingCommand, lines: Iterable[str]) -> Iterator[Iterator[bytes]]:
    """Run a command while the body runs, and yield its answers. It is killed at the end if it still runs."""
    try:
        process = subprocess.Popen(shlex.split(command.command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except (OSError, ValueError) as error:
        raise UserError(f"{command.command}: cannot be run: {error}") from None
    assert process.stdin is not None
    assert process.stdout is not None
    writer = threading.Thread(target=_feed, args=(process.stdin, lines), daemon=True)
    writer.start()
    try:
        yield _read_answers(process, process.stdout, command)
    finally:
        process.kill()
        process.wait()
        writer.join(timeout=10.0)
        process.stdout.close()


def _feed(stdin: IO[bytes], lines: Iterable[str]) -> None:
    try:
        for line in lines:
            stdin.write(json.dumps({"text": line}, ensure_ascii=False).encode() + b"\n")
        stdin.close()
    except (OSError, ValueError):  # the command has ended, which the reader reports
        pass


def _read_answers(process: subprocess.Popen[bytes], stdout: IO[bytes], command: EmbeddingCommand) -> Iterator[bytes]:
    rest, number = b"", 0
    while True:
        deadline = time.monotonic() + command.timeout
        while b"\n" not in rest:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise UserError(f"{command.command}: no answer for line {number + 1} within {command.timeout:g} s")
            data = os.read(stdout.fileno(), _READ_BYTES)
            if not data:
                code = process.wait()
                raise UserError(f"{command.command}: ended with code {code} after {number:,} answers of this run")
            rest += data
            if len(rest) > _MAX_ANSWER:
                raise UserError(f"{command.command}: the answer for line {number + 1} is too long")
        *whole, rest = rest.split(b"\n")
        yield from whole
        number += len(whole)
