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
        while (record := self._next_record()) is not None:
            start = _TEXT.size * len(self._texts)
            checks = _TEXT.iter_unpack(record[:start])
            if not all(_has_text(file, *check) for file, check in zip(self._texts, checks, strict=True)):
                break
            values = _Unpickler(io.BytesIO(record[start:])).load()
            ends = [file.tell() for file in files]
            yield values
        for file, end in zip(files, ends, strict=True):
            file.seek(end)
            file.truncate()

    def _next_record(self) -> bytes | None:
        header = self._log.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return None
        length, crc = _HEADER.unpack(header)
        record = self._log.read(length)
        # the CRC-32 of nothing is 0, as in a header of zeros
        return record if record and len(record) == length and zlib.crc32(record) == crc else None

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


def _has_text(file: IO[bytes], length: int, crc: int) -> bool:
    """Read the next text of a file, and return whether it is complete."""
    text = file.read(length)
    return len(text) == length and zlib.crc32(text) == crc


def _open(path: Path) -> IO[bytes]:
    path.touch()
    return path.open("r+b")


class _Unpickler(pickle.Unpickler):
    """Unpickler that refuses every class and function except those in the values of a log."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED or (module.partition(".")[0] == "numpy" and name in _ALLOWED_OF_NUMPY):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a log")
