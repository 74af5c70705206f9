"""Records of items on disk, divided into partitions by their keys, so that equal keys are in one partition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_PARTITIONS = 128  # partitions of a billion items of 24 bytes are below 200 MB
_BUFFER_BYTES = 16 << 20


class Partitions:
    """Files of records, one for each residue of the records' keys; no file is open between two calls.

    Args:
        workdir: existing folder for the files; the caller removes it.
        name: beginning of the names of the files; existing ones are removed.
        dtype: type of a record.

    Raises:
        OSError: from `add` and `read`, if the disk is full.
    """

    def __init__(self, workdir: Path, name: str, dtype: np.dtype[Any]) -> None:
        self._paths = [workdir / f"{name}.{number}" for number in range(NUM_PARTITIONS)]
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._dtype = dtype
        self._buffers: list[list[bytes]] = [[] for _ in self._paths]
        self._num_buffered = 0  # bytes

    def add(self, records_N: npt.NDArray[np.void], keys_N: npt.NDArray[np.uint64]) -> None:
        """Append records, given a uniformly distributed key of each."""
        partition_N = (keys_N % np.uint64(NUM_PARTITIONS)).astype(np.uint8)
        records_N = records_N[np.argsort(partition_N, kind="stable")]
        ends = np.cumsum(np.bincount(partition_N, minlength=NUM_PARTITIONS))
        for buffer, records in zip(self._buffers, np.split(records_N, ends[:-1]), strict=True):
            buffer.append(records.tobytes())
        self._num_buffered += records_N.nbytes
        if self._num_buffered >= _BUFFER_BYTES:
            self._flush()

    def read(self) -> Iterator[npt.NDArray[np.void]]:
        """Yield the records of each partition that has any, in the order in which they were added."""
        self._flush()
        for path in self._paths:
            if path.exists():
                yield np.fromfile(path, dtype=self._dtype)

    def _flush(self) -> None:
        for path, buffer in zip(self._paths, self._buffers, strict=True):
            if any(buffer):
                with path.open("ab") as file:
                    file.writelines(buffer)
            buffer.clear()
        self._num_buffered = 0
