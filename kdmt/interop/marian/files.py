"""Model files of Marian: `.npz`, and the binary files of Marian and Bergamot. This module does not load torch.

A `.npz` is an archive of NumPy with an array for each parameter. The array `special:model.yml` has the bytes of the
model's options, a YAML document, and a zero byte.

A binary file has the same content; all numbers are little-endian:

    uint64 version (1), uint64 number of parameters
    for each parameter: uint64 bytes of the name, type, number of axes, bytes of the data
    names, each ending in a zero byte
    shapes, int32 for each axis
    uint64 number of zero bytes that follow, so that the data begin at a multiple of 256
    data of each parameter, padded with zeros to a multiple of 256 bytes

The type of float32 is 0x0404, of int8 0x0101, and of int8 matrices for products (`intgemm8`) 0x4101. The data of an
`intgemm8` matrix W are round(W * m), where m = 127 / max|W|, followed by m as float32. The engine arranges them for the
processor when it loads them, therefore a file is valid on every machine. They are stored transposed, except for
embeddings.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from kdmt.errors import UserError
from kdmt.files import check_file, naming

OPTIONS = "special:model.yml"  # name of the model's options among the parameters
ALPHA = "_QuantMultA"  # suffix of the name of a factor by which the input of a matrix is multiplied before rounding
_VERSION = 1
_ALIGNMENT = 256
_FLOAT32, _INT8, _INTGEMM8 = 0x0404, 0x0101, 0x4101
_MOST_AXES = 8
_Array = NDArray[Any]
# errors of zipfile, of its decompressors and of NumPy for a damaged archive; RuntimeError is for encrypted members and
# unknown methods of compression
_DAMAGED = (
    OSError, ValueError, EOFError, RuntimeError, KeyError, MemoryError, OverflowError, SyntaxError, TypeError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class MarianModel:
    """Parameters of a model by their names, float32, and its options (`special:model.yml`)."""

    parameters: dict[str, NDArray[np.float32]]
    options: dict[str, Any]


@dataclass(frozen=True)
class _Item:
    """A parameter as stored in a binary file."""

    name: str
    kind: int
    shape: tuple[int, ...]
    data: bytes


# --------------------------------------------------------------------------------------------------------------- .npz


def write_npz(path: Path, model: MarianModel) -> None:
    """Write a `.npz` file. The same model gives the same bytes."""
    arrays: dict[str, _Array] = dict(sorted(model.parameters.items()))
    arrays[OPTIONS] = np.frombuffer(_options_bytes(model.options), dtype=np.int8)
    with naming(path), zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def read_model(path: Path) -> MarianModel:
    """Read a model file, `.npz` or `.bin`. Matrices of type int8 become float32; factors of activations are left out.

    Raises:
        UserError: if the file is damaged, is not a model of Marian, or has a parameter that is not finite.
    """
    check_file(path)
    arrays, options = _read_binary(path) if path.suffix == ".bin" else _read_npz(path)
    if not isinstance(options, dict):
        raise UserError(f"{path}: {OPTIONS}: not a list of options")
    parameters = {}
    for name, array in arrays.items():
        if name.endswith(ALPHA):
            continue
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UserError(f"{path}: {name[:80]} has values that are no finite floating-point numbers")
        parameters[name] = array.astype(np.float32)
    return MarianModel(parameters, options)


def _read_npz(path: Path) -> tuple[dict[str, _Array], object]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(f"{path}: not a model of Marian: it is a single array")
            arrays = {name: archive[name] for name in archive.files}
    except _DAMAGED as error:
        raise UserError(f"{path}: not a readable .npz file: {' '.join(str(error).split())[:200]}") from None
    if OPTIONS not in arrays:
        raise UserError(f"{path}: not a model of Marian: it has no {OPTIONS}")
    return arrays, _parse_options(arrays.pop(OPTIONS).tobytes(), path)


def _options_bytes(options: Mapping[str, object]) -> bytes:
    return yaml.safe_dump(dict(options), sort_keys=True, allow_unicode=True).encode() + b"\0"


def _parse_options(data: bytes, path: Path) -> object:
    try:
        return yaml.safe_load(data.rstrip(b"\0 ").decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {OPTIONS}: {' '.join(str(error).split())[:200]}") from None


# ------------------------------------------------------------------------------------------------------- binary files


def write_binary(path: Path, model: MarianModel, alphas: Mapping[str, float] | None = None) -> None:
    """Write a binary file in float32, or with int8 matrices if there are factors for activations.

    Args:
        alphas: by the name of each matrix (without `ALPHA`), the factor by which its input is multiplied before it is
            rounded to int8; None for float32.
    """
    items = [_float_item(name, array) for name, array in model.parameters.items() if not _is_int8(name, alphas)]
    if alphas is not None:
        items += [_int8_item(name, array) for name, array in model.parameters.items() if _is_int8(name, alphas)]
        items += [_float_item(f"{name}{ALPHA}", np.array([alpha])) for name, alpha in alphas.items()]
    items.sort(key=lambda item: item.name)
    options = _options_bytes(model.options)
    items.append(_Item(OPTIONS, _INT8, (len(options),), options))
    with naming(path):
        path.write_bytes(b"".join(_binary_parts(items)))


def _binary_parts(items: list[_Item]) -> list[bytes]:
    names = [item.name.encode() + b"\0" for item in items]
    parts = [struct.pack("<QQ", _VERSION, len(items))]
    parts += [
        struct.pack("<4Q", len(name), item.kind, len(item.shape), len(item.data))
        for name, item in zip(names, items, strict=True)
    ]
    parts += names
    parts += [struct.pack(f"<{len(item.shape)}i", *item.shape) for item in items]
    place = sum(map(len, parts)) + 8
    offset = (place // _ALIGNMENT + 1) * _ALIGNMENT - place
    return [*parts, struct.pack("<Q", offset), b"\0" * offset, *(item.data for item in items)]


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)


def _float_item(name: str, array: _Array) -> _Item:
    return _Item(name, _FLOAT32, array.shape, _padded(array.astype("<f4").tobytes()))


def is_matrix(name: str) -> bool:
    """Return whether a parameter is a matrix that Bergamot multiplies with int8: a layer's weights or an embedding."""
    tail = name.rpartition("_")[2]
    return is_embedding(name) or (tail.startswith("W") and len(tail) <= 2 and not name.endswith("_Wt"))


def is_embedding(name: str) -> bool:
    """Return whether a parameter is a matrix of embeddings, with a row for each token."""
    return name.endswith("Wemb")


def _is_int8(name: str, alphas: Mapping[str, float] | None) -> bool:
    return alphas is not None and is_matrix(name)


def _int8_item(name: str, array: NDArray[np.float32]) -> _Item:
    matrix_IO, multiplier = quantize(array)
    stored = matrix_IO if is_embedding(name) else matrix_IO.T
    data = np.ascontiguousarray(stored).tobytes() + np.float32(multiplier).astype("<f4").tobytes()
    return _Item(name, _INTGEMM8, array.shape, _padded(data))


def quantize(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], np.float32]:
    """Return the int8 values of a matrix and the factor m: round(matrix * m), where m = 127 / max|matrix|."""
    largest = np.abs(matrix).max(initial=0.0)
    multiplier = np.float32(127.0) / np.float32(largest) if largest > 0 else np.float32(1.0)
    return np.rint(matrix * multiplier).clip(-127, 127).astype(np.int8), multiplier


def _read_binary(path: Path) -> tuple[dict[str, _Array], object]:
    data = np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, dtype=np.uint8)
    try:
        arrays = {item.name: _array_of(item) for item in _read_items(data)}
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable model of Marian: {error}") from None
    if OPTIONS not in arrays:
        raise UserError(f"{path}: not a model of Marian: it has no {OPTIONS}")
    return arrays, _parse_options(arrays.pop(OPTIONS).tobytes(), path)


def _read_items(data: NDArray[np.uint8]) -> list[_Item]:
    """Return the parameters of a binary file.

    Raises:
        ValueError, struct.error: if the file is not valid.
    """
    place = 0

    def take(size: int) -> bytes:
        nonlocal place
        if size > len(data) - place:
            raise ValueError(f"{size} bytes from byte {place} on are missing")
        place += size
        return data[place - size : place].tobytes()

    version, count = struct.unpack("<QQ", take(16))
    if version != _VERSION:
        raise ValueError(f"version {version}, expected {_VERSION}")
    headers = [struct.unpack("<4Q", take(32)) for _ in range(count)]
    names = [take(header[0]).rstrip(b"\0").decode() for header in headers]
    shapes = []
    for header in headers:
        if header[2] > _MOST_AXES:
            raise ValueError(f"{header[2]} axes")
        shapes.append(struct.unpack(f"<{header[2]}i", take(4 * header[2])))
    take(struct.unpack("<Q", take(8))[0])
    return [
        _Item(name, header[1], shape, take(header[3]))
        for name, header, shape in zip(names, headers, shapes, strict=True)
    ]


def _array_of(item: _Item) -> _Array:
    """Return the array of a parameter, a matrix of type int8 as float32.

    Raises:
        ValueError: if the type is unknown or the data are too short.
    """
    if any(size < 0 for size in item.shape):
        raise ValueError(f"{item.name[:80]}: shape {item.shape}")
    count = int(np.prod(item.shape, dtype=np.int64))
    if item.kind == _FLOAT32:
        return np.frombuffer(item.data, "<f4", count).reshape(item.shape)
    values = np.frombuffer(item.data, np.int8, count)
    if item.kind == _INT8:
        return values.reshape(item.shape)
    if item.kind != _INTGEMM8:
        raise ValueError(f"{item.name[:80]}: unknown type {item.kind:#x}")
    (multiplier,) = np.frombuffer(item.data, "<f4", 1, offset=count)
    if not np.isfinite(multiplier) or multiplier <= 0:
        raise ValueError(f"{item.name[:80]}: multiplier {multiplier}")
    matrix = values.reshape(item.shape) if is_embedding(item.name) else values.reshape(item.shape[::-1]).T
    return matrix.astype(np.float32) / multiplier
