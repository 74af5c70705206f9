"""CTranslate2's `model.bin`: its weights, looked at before they are loaded.

    uint32 version (6), string name, uint32 revision, uint32 number of variables
    of each: string name, uint8 rank, uint32 sizes [rank], uint8 type, uint32 bytes, content
    (aliases of variables)

A string is uint16 its bytes with the closing zero, then these. All is little-endian; see `_serialize` in
ctranslate2/specs/model_spec.py (4.8).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdmt.errors import UserError

VERSION = 6
_FLOATS: dict[int, str] = {0: "<f4", 4: "<f2"}  # by the type's number
_BFLOAT16 = 5
_CHUNK = 1 << 22  # numbers looked at together


def check_weights(path: Path) -> None:
    """Refuse a `model.bin` with weights that are NaN or infinite: CTranslate2 takes NaN for 0 behind a ReLU.

    A file of another version is left to CTranslate2, which refuses what it does not know.

    Raises:
        UserError: naming the weight; or the file is cut short.
    """
    data: NDArray[np.uint8] = (
        np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    )
    reader = _Reader(data)
    try:
        (version,) = reader.take("<I")
        if version != VERSION:
            return
        reader.string()
        _, variables = reader.take("<II")
        for _ in range(variables):
            name = reader.string()
            (rank,) = reader.take("<B")
            reader.take(f"<{rank}I")
            kind, size = reader.take("<BI")
            if not _is_finite(reader.content(size), kind):
                raise UserError(f"{path}: {name[:80]} has weights that are NaN or infinite")
    except (struct.error, ValueError) as error:
        raise UserError(f"{path}: damaged or cut short: {error}") from None


class _Reader:
    """Takes one value after the other from bytes."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data, self._place = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._data.data, self._place)
        self._place += struct.calcsize(form)
        return values

    def content(self, size: int) -> NDArray[np.uint8]:
        if self._place + size > len(self._data):
            raise ValueError(f"{size} bytes from byte {self._place} on are not there")
        self._place += size
        return self._data[self._place - size : self._place]

    def string(self) -> str:
        (size,) = self.take("<H")
        return self.content(size).tobytes().rstrip(b"\0").decode("utf-8", errors="replace")


def _is_finite(content: NDArray[np.uint8], kind: int) -> bool:
    if kind == _BFLOAT16:  # the upper half of a float32: its exponent is all ones
        bits = content[: len(content) // 2 * 2].view("<u2")
        return not (bits & 0x7F80 == 0x7F80).any()
    if kind not in _FLOATS:
        return True
    dtype = np.dtype(_FLOATS[kind])
    numbers = content[: len(content) // dtype.itemsize * dtype.itemsize].view(dtype)
    return all(np.isfinite(numbers[start : start + _CHUNK]).all() for start in range(0, len(numbers), _CHUNK))
