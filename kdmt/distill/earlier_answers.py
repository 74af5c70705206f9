"""The answers in earlier states of a stage's folder, by sentence, so that they are used again and not requested.

An index has the hash of each source sentence and the file that has its answer, 12 bytes per sentence. The files stay
where they are; if one was removed in the meantime, its sentences are requested. `earlier.json` names the file of the
index and the files that it was made from; it is replaced if these change, also while other processes use it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.distill.answer_log import ANSWERS, Reply, read_replies
from kdmt.errors import UserError
from kdmt.files import atomic_file, read_optional_json, write_json

_RECORD = "earlier.json"
_ROW = np.dtype([("hash", "<u8"), ("file", "<u4")])


class EarlierAnswers:
    """Reader of an index that `write_index` wrote; without an index it finds nothing.

    Args:
        folder: folder of the index.
        settings: hash of the settings of requests; replies with others are not used.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self._settings = settings
        self._rows: NDArray[np.void] = np.empty(0, _ROW)
        self._files: list[Path] = []
        record = read_optional_json(folder / _RECORD)
        if record is not None:
            self._rows = np.load(folder / record["index"], mmap_mode="r")
            self._files = [folder / name for name, _, _ in record["files"]]
        self._read = lru_cache(maxsize=4)(self._replies)  # sentences of a block were in few blocks before

    def find(self, sources: Sequence[str]) -> Iterator[Reply]:
        """Yield the replies that concern any of the sources, each once."""
        if not len(self._rows):
            return
        hashes = self._rows["hash"]
        numbers: set[int] = set()
        for wanted in map(_hash, sources):
            start = int(np.searchsorted(hashes, wanted))
            while start < len(hashes) and int(hashes[start]) == wanted:
                numbers.add(int(self._rows["file"][start]))
                start += 1
        known = set(sources)
        found = (reply for number in sorted(numbers) for reply in self._read(number))
        yield from dict.fromkeys(reply for reply in found if not known.isdisjoint(reply.sources))

    def _replies(self, number: int) -> list[Reply]:
        return _usable(self._files[number], self._settings)


def write_index(folder: Path, states: Iterable[Path], settings: str, name: str = ANSWERS) -> None:
    """Write an index of the answers in earlier states, unless there is one of the same files.

    Args:
        folder: existing folder of the index.
        states: folders of earlier states of the stage.
        settings: hash of the settings of requests; replies with others are left out.
        name: path of the folder of answers within a state.
    """
    files = [path for state in states for path in sorted((state / name).glob("[0-9]*.*"))]
    described = [_describe(path, folder) for path in files]
    index = f"earlier-{hashlib.sha256(repr((settings, described)).encode()).hexdigest()[:16]}.npy"
    record = read_optional_json(folder / _RECORD)
    if record == {"index": index, "files": described} or (record is None and not files):
        return
    rows = [np.empty(0, _ROW)]
    for number, path in enumerate(files):
        try:
            sources = [source for reply in _usable(path, settings) for source in reply.sources]
        except UserError:  # damaged, so that its sentences are requested again
            continue
        rows.append(np.array([(_hash(source), number) for source in dict.fromkeys(sources)], dtype=_ROW))
    found = np.concatenate(rows)
    with atomic_file(folder / index) as aside, aside.open("wb") as file:
        np.save(file, found[np.argsort(found, order=("hash", "file"))])
    write_json(folder / _RECORD, {"index": index, "files": described})
    if record is not None:
        (folder / record["index"]).unlink(missing_ok=True)  # processes that have opened it can still read it


def _describe(path: Path, folder: Path) -> list[object]:
    """Return the path relative to the folder of the index, so that both can be moved, with the size and time."""
    status = path.stat()
    return [os.path.relpath(path.resolve(), folder.resolve()), status.st_size, status.st_mtime_ns]


def _usable(path: Path, settings: str) -> list[Reply]:
    # sentences without an answer are requested again
    return [reply for reply in read_replies(path) if reply.settings == settings and reply.error is None]


def _hash(source: str) -> int:
    return int.from_bytes(hashlib.blake2b(source.encode(errors="replace"), digest_size=8).digest(), "little")
