"""Tests of the log of finished chunks: what remains after any truncation or damage of its files."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from kdmt.corpus.chunk_log import ChunkLog, FinishedChunks

CHUNKS = [
    ({"number": number, "counts": collections.Counter({"a": number})}, b"s" * number, b"t%d\n" % number)
    for number in range(3)
]
NAMES = ("log", "source", "target")


def write(folder: Path) -> list[int]:
    """Write the chunks that are missing, and return the numbers of those that were there."""
    folder.mkdir(exist_ok=True)
    with ChunkLog(folder / "log", [folder / "source", folder / "target"]) as log:
        there = [values["number"] for values in log.finished()]
        for values, source, target in CHUNKS[len(there) :]:
            log.add(values, (source, target))
    return there


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in NAMES]


def test_texts_are_written_one_after_another(tmp_path: Path) -> None:
    assert write(tmp_path / "a") == []
    assert contents(tmp_path / "a")[1:] == [b"sss", b"t0\nt1\nt2\n"]
    assert write(tmp_path / "a") == [0, 1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_after_any_truncation_the_same_files_are_made(tmp_path: Path, name: str) -> None:
    """Cut one of the files at every byte, as a killed process or a full disk may leave it."""
    write(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    size = (tmp_path / "whole" / name).stat().st_size
    counts = []
    for length in range(size + 1):
        folder = tmp_path / f"{name}{length}"
        write(folder)
        os.truncate(folder / name, length)
        there = write(folder)
        assert there == list(range(len(there)))
        counts.append(len(there))
        assert contents(folder) == expected
    assert counts == sorted(counts)
    assert counts[-1] == 3
    assert counts[0] == (1 if name == "source" else 0)  # the first chunk has no source text


@pytest.mark.parametrize("name", NAMES)
def test_zeros_in_place_of_bytes_are_noticed(tmp_path: Path, name: str) -> None:
    """Replace the end of a file by zeros, as some file systems do after a loss of power."""
    write(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    content = expected[NAMES.index(name)]
    for length in range(len(content)):
        folder = tmp_path / f"{name}{length}"
        write(folder)
        (folder / name).write_bytes(content[:length] + bytes(len(content) - length))
        write(folder)
        assert contents(folder) == expected


@pytest.mark.parametrize("name", NAMES)
def test_finished_chunks_are_read_without_changing_the_files(tmp_path: Path, name: str) -> None:
    """Cut one of the files at every byte; the complete chunks are read in any order."""
    write(tmp_path / "whole")
    for length in range((tmp_path / "whole" / name).stat().st_size + 1):
        folder = tmp_path / f"{name}{length}"
        write(folder)
        os.truncate(folder / name, length)
        before = contents(folder)
        found = FinishedChunks(folder / "log", [folder / "source", folder / "target"])
        read = {index: found.read(index) for index in reversed(range(len(found)))}
        assert contents(folder) == before
        assert len(found) == len(write(folder))
        assert read == {index: (CHUNKS[index][0], list(CHUNKS[index][1:])) for index in range(len(found))}


def test_a_missing_log_has_no_chunks(tmp_path: Path) -> None:
    assert len(FinishedChunks(tmp_path / "log", [tmp_path / "source"])) == 0
    assert list(tmp_path.iterdir()) == []


def test_arrays_are_restored_bit_for_bit(tmp_path: Path) -> None:
    array = np.array([0.1, np.nan, -0.0])
    for number in range(2):
        with ChunkLog(tmp_path / "log", []) as log:
            (found,) = [*log.finished(), *([] if number else [None])]
            if number == 0:
                log.add({"array": array, "pair": (1, "x")}, [])
    assert found["array"].tobytes() == array.tobytes()
    assert found["pair"] == (1, "x")


def test_a_log_cannot_call_functions(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, ("true",)

    record = pickle.dumps(Evil())
    (tmp_path / "log").write_bytes(struct.pack("<II", len(record), zlib.crc32(record)) + record)
    with ChunkLog(tmp_path / "log", []) as log, pytest.raises(pickle.UnpicklingError, match="system does not belong"):
        list(log.finished())
