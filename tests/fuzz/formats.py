"""Damage that keeps the outer form of a format, so that the code for its content is reached.

It covers tensors, arrays, dictionaries and blocks, and can update checksums.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.damage import ESCAPES, Damaged, damage_bytes, damage_file, damage_json, damage_values, replace_path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewrite_checksums(folder: Path) -> None:
    """Write the present checksums of the files to checksums.json."""
    path = folder / "checksums.json"
    try:
        checksums = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError):
        return
    if isinstance(checksums, dict):
        known = {name: folder / str(name) for name in checksums}
        path.write_text(
            json.dumps(
                {
                    name: sha256(file) if file.is_file() and not file.is_symlink() else checksums[name]
                    for name, file in known.items()
                }
            )
        )


def rewrite_manifest(stage: Path) -> None:
    """Write the present checksums of a stage's outputs to its manifest."""
    path = stage / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for name in manifest["outputs"]:
        file = stage / name
        if file.is_file() and not file.is_symlink():
            manifest["outputs"][name] = sha256(file)
    path.write_text(json.dumps(manifest))


# ------------------------------------------------------------------------------------------------------------- tensors


def damage_safetensors(rng: random.Random, data: bytes) -> Damaged:
    """Damage the header's JSON, or the numbers."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    choice = rng.random()
    if choice < 0.4:
        document, what = damage_values(rng, json.loads(header))
        return _joined(json.dumps(document).encode(errors="surrogatepass"), body), f"header: {what}"
    if choice < 0.5:
        size = rng.choice([0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1])
        return struct.pack("<Q", size) + data[8:], f"its header has {size} bytes"
    if choice < 0.8:
        number = rng.choice([float("nan"), float("inf"), -float("inf"), 3e38, 0.0])
        numbers = np.frombuffer(body, dtype="<f4").copy() if len(body) % 4 == 0 else np.zeros(1, dtype="<f4")
        numbers[rng.randrange(len(numbers)) :: rng.choice([1, 7, 10**6])] = number
        return _joined(header, numbers.tobytes()), f"weights are {number}"
    if choice < 0.9:
        return _other_tensors(rng, json.loads(header), body)
    return damage_bytes(rng, data)


def _other_tensors(rng: random.Random, header: dict[str, Any], body: bytes) -> Damaged:
    """Change the shape, type, name or offsets of one tensor."""
    name = rng.choice([name for name in header if name != "__metadata__"])
    about = header[name]
    change = rng.choice(["reversed", "float16", "int64", "flat", "negative", "huge", "renamed", "missing", "control"])
    if change == "reversed":
        about["shape"] = about["shape"][::-1]
    elif change == "float16":
        about["dtype"], about["shape"] = "F16", [*about["shape"], 2]
    elif change == "int64":
        about["dtype"] = "I64"
    elif change == "flat":
        about["shape"] = [int(np.prod(about["shape"]))]
    elif change == "negative":
        about["shape"] = [-size for size in about["shape"]]
    elif change == "huge":
        about["shape"], about["data_offsets"] = [2**40], [0, 2**42]
    elif change == "missing":
        del header[name]
    else:
        header[ESCAPES if change == "control" else f"{name}.more"] = header.pop(name)
    return _joined(json.dumps(header).encode(), body), f"{name}: {change}"


def _joined(header: bytes, body: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + body


# -------------------------------------------------------------------------------------------------------------- arrays


def damage_array(rng: random.Random, data: bytes) -> Damaged:
    """Damage a .npy file: another type, shape or other numbers."""
    array = np.load(io.BytesIO(data))
    choice = rng.choice(["values", "values", "shape", "type", "objects", "bytes", "header"])
    if choice == "bytes":
        return damage_bytes(rng, data)
    if choice == "header":
        shape = rng.choice(["(-1,)", "(10**12,)", "()", "(2**62,)", "('x',)", "(3"])
        return b"\x93NUMPY\x01\x00v\x00" + f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}".ljust(
            117
        ).encode() + b"\n" + bytes(40), f"shape {shape}"
    if choice == "objects":
        return _npy(np.array([{"a": 1}, None], dtype=object)), "Python objects"
    if choice == "shape":
        changed = rng.choice([array[:-1], np.concatenate([array, array]), array[:0], array[:, None], array[None]])
        return _npy(changed), f"shape {changed.shape}"
    if choice == "type":
        name = rng.choice(["<f8", "<f4", "<i8", "u1", "<u8", "?", "<U3", "<M8[s]", "<c8"])
        flat = np.frombuffer(array.tobytes() + bytes(-array.nbytes % 24), dtype="u1")
        return _npy(
            np.resize(flat, (len(array), 16)).view(name if name != "<U3" else "<U4").reshape(len(array), -1)[:, 0]
        ), f"type {name}"
    return _other_numbers(rng, array)


def _other_numbers(rng: random.Random, array: np.ndarray) -> Damaged:
    """Set some bytes so that numbers become -1, as large as possible, NaN or 0, in records and simple arrays."""
    changed = array.copy()
    flat = changed.reshape(-1).view("u1")
    byte = rng.choice([0xFF, 0x7F, 0x80, 0x00])
    step = rng.choice([1, 4, 37])
    flat[rng.randrange(max(1, len(flat))) :: step] = byte
    return _npy(changed), f"every {step}. byte is {byte:#x}"


def _npy(array: np.ndarray) -> bytes:
    np.save(file := io.BytesIO(), array, allow_pickle=True)
    return file.getvalue()


# -------------------------------------------------------------------------------------------------------- dictionaries


def damage_dictionary(rng: random.Random, data: bytes) -> Damaged:
    """Damage a line of dict.<lang>.txt, which has a token and its count."""
    lines = data.split(b"\n")
    number = rng.randrange(max(1, len(lines) - 1))
    name = rng.choice(list(_LINES))
    lines[number] = _LINES[name](lines[number])
    return b"\n".join(lines), f"line {number + 1}: {name}"


_LINES: dict[str, Callable[[bytes], bytes]] = {
    "no count": lambda line: line.split(b" ")[0],
    "a negative count": lambda line: line.split(b" ")[0] + b" -1",
    "a count that is no number": lambda line: line.split(b" ")[0] + b" many",
    "a count of 5,000 digits": lambda line: line.split(b" ")[0] + b" " + b"9" * 5000,
    "a count in other digits": lambda line: line.split(b" ")[0] + " ²".encode(),
    "a special symbol": lambda _: b"<pad> 1",
    "twice": lambda line: line + b"\n" + line,
    "overwriting": lambda line: line + b"\n" + line + b" #fairseq:overwrite",
    "empty": lambda _: b"",
    "removed": lambda line: b"x 1" if not line else b"zz 1",
    "a tab": lambda line: line.replace(b" ", b"\t"),
    "three columns": lambda line: line + b" 7",
    "NUL": lambda line: b"\0" + line,
    "Latin-1": lambda line: b"caf\xe9 " + line,
    "escape sequences": lambda line: ESCAPES.encode() + line,
    "a token of a million characters": lambda _: b"x" * 1_000_000 + b" 1",
    "a carriage return": lambda line: line + b"\r",
    "a byte order mark": lambda line: b"\xef\xbb\xbf" + line,
    "a no-break space": lambda _: "a\u00a0b 1".encode(),
}


# --------------------------------------------------------------------------------------------------------------- files


def damage_any(rng: random.Random, path: Path) -> str:
    """Damage a file according to its format."""
    if rng.random() < 0.08:
        return f"{path.name} is {replace_path(rng, path)}"
    suffixes = {".safetensors": damage_safetensors, ".npy": damage_array, ".json": damage_json, ".gz": damage_block}
    damage = suffixes.get(path.suffix, damage_dictionary if path.name.startswith("dict.") else None)
    if damage is None or rng.random() < 0.15:
        return damage_file(rng, path)
    data, what = damage(rng, path.read_bytes())
    path.write_bytes(data)
    return f"{path.name}: {what}"


def damage_listed(rng: random.Random, path: Path, folder: Path) -> tuple[str, bool]:
    """Damage a file that its folder's checksums.json lists; in most cases update its checksum.

    Returns:
        A description of the damage, and whether the checksums show it.
    """
    before = sha256(path)
    what = damage_any(rng, path)
    if rng.random() < 0.75:
        rewrite_checksums(folder)
        return f"{what}; checksums rewritten", False
    return what, not path.is_file() or path.is_symlink() or sha256(path) != before


def damage_block(rng: random.Random, data: bytes) -> Damaged:
    """Damage a block of decoded sentences: its header, its columns or its compression, with an updated checksum."""
    content = gzip.decompress(data)[:-32]
    line, _, body = content.partition(b"\n")
    choice = rng.random()
    if choice < 0.15:
        return damage_bytes(rng, data)
    if choice < 0.25:
        return rng.choice([data + data, data + b"\0" * 100, gzip.compress(bytes(200_000_000), mtime=0)]), "more data"
    if choice < 0.55:
        line, what = damage_json(rng, line)
        line = json.dumps(json.loads(line)).encode() if _is_json(line) else line.replace(b"\n", b" ")
    else:
        body, what = _other_column(rng, json.loads(line)["columns"], body)
    content = line + b"\n" + body
    return gzip.compress(content + hashlib.sha256(content).digest(), mtime=0), what


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _other_column(rng: random.Random, columns: list[Any], body: bytes) -> Damaged:
    """Set numbers of one column to values that are not possible."""
    chosen = rng.randrange(len(columns))
    start = sum(np.dtype(kind).itemsize * count for _, kind, count in columns[:chosen])
    name, kind, count = columns[chosen]
    values = np.frombuffer(body, dtype=kind, count=count, offset=start).copy()
    limits = np.finfo(kind) if np.dtype(kind).kind == "f" else np.iinfo(kind)
    value = rng.choice([0, 1, limits.max, limits.min, float("nan") if np.dtype(kind).kind == "f" else 3])
    values[rng.randrange(max(1, count)) :: rng.choice([1, 10**6])] = value
    return body[:start] + values.tobytes() + body[start + values.nbytes :], f"{name}: {value}"
