"""Damage to bytes, JSON and paths, drawn from a `random.Random`; each function returns a description of the damage."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PWNED = "PWNED"  # a file that exists if a damaged file was executed
ESCAPES = "\x1b]0;title\x07\x1b[31mred\x1b[2J\r\x08\x9b31m"
Damaged = tuple[bytes, str]


class Runs:
    """An object whose pickle creates a file when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {PWNED}",)


# --------------------------------------------------------------------------------------------------------------- bytes


def damage_bytes(rng: random.Random, data: bytes) -> Damaged:
    """Damage bytes as disks, networks or interrupted copies do, or return another kind of file."""
    name = rng.choice([*_OF_BYTES, *_OTHER_FILES])
    if name in _OTHER_FILES:
        return _OTHER_FILES[name](data), f"is {name}"
    return _OF_BYTES[name](rng, data), name


def _truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice([1, 4, 8, len(data) // 2, max(0, len(data) - 1), rng.randrange(len(data) + 1)])]


def _flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])):
        if changed:
            changed[_early(rng, len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _early(rng: random.Random, length: int) -> int:
    """Return any position, but often one near the beginning, where headers are."""
    return rng.randrange(length) if rng.random() < 0.5 else rng.randrange(min(length, 64))


def _zeroed(rng: random.Random, data: bytes) -> bytes:
    start = _early(rng, len(data)) if data else 0
    length = min(rng.choice([1, 8, 512]), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def _inserted(rng: random.Random, data: bytes) -> bytes:
    start = _early(rng, len(data)) if data else 0
    return data[:start] + rng.randbytes(rng.choice([1, 4, 100])) + data[start:]


def _swapped(_: random.Random, data: bytes) -> bytes:
    return data[len(data) // 2 :] + data[: len(data) // 2]


def _replaced(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(len(data))


def _all_ones(rng: random.Random, data: bytes) -> bytes:
    """Set bytes to ones, which makes numbers there -1 or as large as possible."""
    start, length = (_early(rng, len(data)) if data else 0), rng.choice([1, 2, 4, 8])
    return data[:start] + b"\xff" * length + data[start + length :]


_OF_BYTES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "truncated": _truncated,
    "bits flipped": _flipped,
    "a block of zeros": _zeroed,
    "bytes inserted": _inserted,
    "halves swapped": _swapped,
    "random bytes": _replaced,
    "bytes of ones": _all_ones,
    "twice": lambda _, data: data + data,
    "empty": lambda *_: b"",
    "a byte order mark": lambda _, data: b"\xef\xbb\xbf" + data,
}


def zipped(data: bytes, name: str = "train.en") -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr(name, data)
    return file.getvalue()


def tarred(data: bytes, name: str = "train.en") -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _sgm(data: bytes) -> bytes:
    lines = data.decode(errors="replace").splitlines()
    body = "".join(f'<seg id="{number}">{line}</seg>\n' for number, line in enumerate(lines, 1))
    return f'<refset setid="test"><doc docid="1"><p>\n{body}</p></doc></refset>\n'.encode()


_OTHER_FILES: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "a tar archive": tarred,
    "a tar.gz archive": lambda data: gzip.compress(tarred(data), mtime=0),
    "a zip archive": zipped,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda _: b"\x28\xb5\x2f\xfd\x24\x05\x29\x00\x00hello" + bytes(8),
    "UTF-16": lambda data: data.decode(errors="replace").encode("utf-16"),
    "a web page": lambda _: b"<!DOCTYPE html><html><title>404 Not Found</title></html>\n",
    "SGML": _sgm,
    "a git-lfs pointer": lambda _: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    ),
    "a pickle that runs a command": lambda _: pickle.dumps(Runs(), protocol=2),
    "YAML": lambda _: b"name: x\nlist: [1, 2]\n",
    "JSON": lambda _: b'{"a": [1, 2, {"b": null}]}\n',
    "PDF": lambda _: b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "an executable": lambda _: b"\x7fELF\x02\x01\x01" + bytes(64),
    "an array": lambda _: (
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }" + b" " * 55
    ),
}


# ---------------------------------------------------------------------------------------------------------------- JSON

HUGE_NUMBER = "9" * 5_000
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**30, 0.5, -0.0, 1e308, 1e400, float("nan")),
    *("", "x", "\0", ESCAPES, "../../etc/passwd", "/etc/passwd", "\ud800", "x" * 5_000, "１２", "²", "1e3", "null"),
    *([], {}, [None], [[[]]], {"": 0}, ["a", 1, None], [1] * 1_000, {"a": {"b": {"c": []}}}),
)


def damage_json(rng: random.Random, data: bytes) -> Damaged:
    """Change values, keys or types, or return text that only some JSON readers accept, or none."""
    choice = rng.random()
    if choice < 0.1:
        return damage_bytes(rng, data)
    if choice < 0.25:
        name = rng.choice(list(_ODD_JSON))
        return _ODD_JSON[name](data), f"is {name}"
    document, what = damage_values(rng, json.loads(data))
    return json.dumps(document, indent=1).encode("utf-8", errors="surrogatepass"), what


_ODD_JSON: dict[str, Callable[[bytes], bytes]] = {
    "a list of a hundred thousand lists": lambda _: b"[" * 100_000 + b"]" * 100_000,
    "objects in objects": lambda _: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of 5,000 digits": lambda data: data.replace(b"{", b'{"more": ' + HUGE_NUMBER.encode() + b", ", 1),
    "null": lambda _: b"null",
    "a list": lambda _: b"[]",
    "a string": lambda _: b'"text"',
    "an empty object": lambda _: b"{}",
    "NaN": lambda _: b"NaN",
    "with keys given twice": lambda data: data.replace(b"{", b'{"format": 1, "format": 2, "family": 3, ', 1),
    "with a comma too many": lambda data: data.replace(b"}", b",}", 1),
    "with NUL": lambda data: data + b"\0",
    "in Latin-1": lambda data: data.replace(b"{", b'{"caf\xe9": 1, ', 1),
    "in UTF-16": lambda data: data.decode(errors="replace").encode("utf-16"),
    "with a comment": lambda data: b"// settings\n" + data,
}


def damage_values(
    rng: random.Random, document: Any, *, spare: Callable[[str], bool] = lambda _: False
) -> tuple[Any, str]:
    """Change one to three values of nested lists and mappings.

    Args:
        spare: predicate for paths (`a.b.0`) whose values are not changed.
    """
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        entries = [entry for entry in _entries(document) if not spare(".".join(map(str, entry[2])))]
        if not entries:
            return _value(rng), "another value altogether"
        holder, key, path = rng.choice(entries)
        done.append(f"{'.'.join(map(str, path))}: {_change_value(rng, holder, key)}")
    return document, "; ".join(done)


def _entries(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, Any, tuple[Any, ...]]]:
    """Return (holder, key, path) of every value; only the first ones of long lists."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node))[:8]) if isinstance(node, list) else []
    below = [(node, key, (*path, key)) for key in keys]
    return below + [entry for key in keys for entry in _entries(node[key], (*path, key))]


def _change_value(rng: random.Random, holder: Any, key: Any) -> str:
    old = holder[key]
    action = rng.choice(["replace", "replace", "replace", "remove", "wrap", "nudge", "more"])
    if action == "remove":
        del holder[key]
        return "removed"
    if action == "wrap":
        holder[key] = [old]
        return "in a list"
    if action == "more" and isinstance(old, dict):
        old[rng.choice(["", "more", ESCAPES, "\0", "__class__"])] = _value(rng)
        return "another key"
    if action == "more" and isinstance(old, list):
        old.append(_value(rng))
        return "another element"
    if action == "nudge" and isinstance(old, (int, float)) and not isinstance(old, bool):
        holder[key] = rng.choice([old + 1, old - 1, -old, old * 1_000, str(old), old + 0.5])
    elif action == "nudge" and isinstance(old, str):
        holder[key] = rng.choice([old.upper(), old + " ", old[:-1], old + "\n", old + ESCAPES, old * 50])
    else:
        holder[key] = _value(rng)
    return f"{holder[key]!r:.60}"


def _value(rng: random.Random) -> Any:
    return json.loads(json.dumps(rng.choice(_VALUES)))  # a copy, so that it is not shared


# --------------------------------------------------------------------------------------------------------------- paths


def replace_path(rng: random.Random, path: Path) -> str:
    """Replace a file or folder by something else; an endless file must be recognised before it is read."""
    kind = rng.choice(list(_OTHER_PATHS))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    _OTHER_PATHS[kind](path)
    return kind


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


_OTHER_PATHS: dict[str, Callable[[Path], Any]] = {
    "missing": lambda _: None,
    "a folder": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": _link_to_itself,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/null": lambda path: path.symlink_to("/dev/null"),
    "a link to its folder": lambda path: path.symlink_to("."),
    "an empty file": lambda path: path.write_bytes(b""),
}


def damage_file(rng: random.Random, path: Path) -> str:
    """Damage a file by its suffix, or as bytes, or replace it by something that is not a file."""
    choice = rng.random()
    if choice < 0.12:
        return f"{path.name} is {replace_path(rng, path)}"
    damage = damage_json if path.suffix == ".json" and choice < 0.85 else damage_bytes
    data, what = damage(rng, path.read_bytes())
    path.write_bytes(data)
    return f"{path.name}: {what}"
