"""Results of chunks that survive the end of the process, so that a later call goes on after the last complete chunk.

    <name>.log      a record for each chunk: its values, and the length and checksum of its text in each text file
    text files      the text of all chunks, one after another

A text is written before its record. Each record and each text has a CRC-32, so that neither a process that was killed
nor a machine that lost power leaves a chunk that counts as complete and is not.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

_HEADER = struct.Struct("<II")  # length and CRC-32 of a record
_TEXT = struct.Struct("<QI")  # length and CRC-32 of a text
_ALLOWED = {
    ("collections", "Counter"),
    ("kdmt.corpus.fingerprints", "Fingerprints"),
    ("kdmt.corpus.first_pass", "CleanedChunk"),
    ("kdmt.corpus.near_duplicates", "NearHashes"),
}
_ALLOWED_OF_NUMPY = {"_frombuffer", "_reconstruct", "dtype", "ndarray", "scalar"}


class ChunkLog:
    """Log of the results of chunks, used as `with ChunkLog(path, texts) as log:`.

    Call `finished` to its end first: it yields the chunks of earlier calls, and removes what comes after the last
    complete one. Then `add` appends further chunks.

    Args:
        path: file of the records.
        texts: text files, which the caller keeps.
    """

    def __init__(self, path: Path, texts: Sequence[Path]) -> None:
        with ExitStack() as files:
            self._log, *self._texts = [files.enter_context(_open(each)) for each in (path, *texts)]
            self._files = files.pop_all()

    def __enter__(self) -> ChunkLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, traceback)

    def finished(self) -> Iterator[Any]:
        """Yield the values of each complete chunk of earlier calls."""
        files = (self._log, *self._texts)
        ends = [0] * len(files)
        while (chunk := _read_chunk(self._log, self._texts)) is not None:
            ends = [file.tell() for file in files]
            yield _load(chunk[0])
        for file, end in zip(files, ends, strict=True):
            file.seek(end)
            file.truncate()

    def add(self, values: object, texts: Sequence[bytes]) -> None:
        """Append a chunk.

        Args:
            values: values that `finished` yields in a later call; plain values, NumPy arrays, counters, `CleanedChunk`.
            texts: text of the chunk for each text file.
        """
        record = bytearray()
        for file, text in zip(self._texts, texts, strict=True):
            file.write(text)
            file.flush()
            record += _TEXT.pack(len(text), zlib.crc32(text))
        record += pickle.dumps(values, protocol=5)
        self._log.write(_HEADER.pack(len(record), zlib.crc32(record)) + record)
        self._log.flush()


class FinishedChunks:
    """Complete chunks of a log that no process writes to. The files are not changed.

    Args:
        path: file of the records; there are no chunks if it does not exist.
        texts: text files.
    """

    def __init__(self, path: Path, texts: Sequence[Path]) -> None:
        self._paths = (path, *texts)
        self._starts: list[list[int]] = []  # positions of each chunk in the files
        if not all(each.exists() for each in self._paths):
            return
        starts = [0] * len(self._paths)
        with ExitStack() as files:
            log, *sides = (files.enter_context(each.open("rb")) for each in self._paths)
            while _read_chunk(log, sides) is not None:
                self._starts.append(starts)
                starts = [file.tell() for file in (log, *sides)]

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, index: int) -> tuple[Any, list[bytes]]:
        """Return the values of a chunk, and its text in each text file."""
        with ExitStack() as files:
            log, *sides = (files.enter_context(each.open("rb")) for each in self._paths)
            for file, start in zip((log, *sides), self._starts[index], strict=True):
                file.seek(start)
            chunk = _read_chunk(log, sides)
        assert chunk is not None, f"{self._paths[0]} was changed"
        return _load(chunk[0]), chunk[1]


def _open(path: Path) -> IO[bytes]:
    path.touch()
    return path.open("r+b")


def _read_chunk(log: IO[bytes], texts: Sequence[IO[bytes]]) -> tuple[bytes, list[bytes]] | None:
    """Read the next chunk: its pickled values, and its text in each text file; None if no complete one follows."""
    header = log.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    length, crc = _HEADER.unpack(header)
    record = log.read(length)
    # the CRC-32 of nothing is 0, as in a header of zeros
    if not record or len(record) != length or zlib.crc32(record) != crc:
        return None
    start = _TEXT.size * len(texts)
    found = []
    for file, (size, text_crc) in zip(texts, _TEXT.iter_unpack(record[:start]), strict=True):
        text = file.read(size)
        if len(text) != size or zlib.crc32(text) != text_crc:
            return None
        found.append(text)
    return record[start:], found


def _load(pickled: bytes) -> Any:
    return _Unpickler(io.BytesIO(pickled)).load()


class _Unpickler(pickle.Unpickler):
    """Unpickler that refuses every class and function except those in the values of a log."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED or (module.partition(".")[0] == "numpy" and name in _ALLOWED_OF_NUMPY):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a log")
