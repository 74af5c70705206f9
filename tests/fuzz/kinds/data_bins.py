"""fairseq's data-bins: index, tokens and dictionaries that contradict each other."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fuzz.case import Case, Command
from fuzz.damage import damage_file, replace_path
from fuzz.formats import damage_dictionary

HEADER = struct.Struct("<9sQBQ")


def damage(rng: random.Random, folder: Path) -> Case:
    data = folder / "data-bin"
    choice = rng.random()
    if choice < 0.4:
        path = rng.choice(sorted(data.glob("*.idx")))
        name = rng.choice(list(_INDEX))
        path.write_bytes(_INDEX[name](rng, path.read_bytes()))
        what = f"{path.name}: {name}"
    elif choice < 0.55:
        path = rng.choice(sorted(data.glob("*.bin")))
        tokens = np.fromfile(path, dtype="<u2")
        tokens[rng.randrange(len(tokens)) :: rng.choice([1, 5, 10**6])] = rng.choice([0, 1, 2, 3, 65_535, 40])
        path.write_bytes(tokens.tobytes())
        what = f"{path.name}: other ids"
    elif choice < 0.75:
        path = rng.choice(sorted(data.glob("dict.*")))
        content, what = damage_dictionary(rng, path.read_bytes())
        path.write_bytes(content)
        what = f"{path.name}: {what}"
    elif choice < 0.95:
        what = damage_file(rng, rng.choice(sorted(data.iterdir())))
    else:
        what = f"data-bin is {replace_path(rng, data)}"
    return Case(what, _commands(rng))


def _commands(rng: random.Random) -> tuple[Command, ...]:
    if rng.random() < 0.3:
        return (Command(("generate", "data-bin", "--path", "runs/tiny/teacher", "--cpu", "--beam", "1")),)
    imported = Command(
        ("import-fairseq", "data-bin", "new.yaml", "--remove-bpe", "sentencepiece"),
        makes="new.yaml",
        changes=("new.yaml",),
    )
    small = [
        f"teacher.model.{side}_{field}={value}" for side in ("encoder", "decoder") for field, value in _MODEL.items()
    ]
    train = ("max_updates=2", "warmup_updates=2", "max_tokens=400", "validate_interval_updates=2", "threads=1")
    sets = [*small, *(f"teacher.train.{each}" for each in train), "teacher.train.precision=float32"]
    arguments = ("teacher", "new.yaml", *(part for each in sets for part in ("--set", each)))
    return imported, Command(arguments, changes=("runs/new/",))


_MODEL = {"layers": 1, "embed_dim": 16, "ffn_embed_dim": 16, "attention_heads": 2}


def _field(number: int, *values: int | bytes) -> Callable[[random.Random, bytes], bytes]:
    """Return a function that sets another value of a header's field."""

    def change(rng: random.Random, data: bytes) -> bytes:
        fields = list(HEADER.unpack(data[: HEADER.size]))
        fields[number] = rng.choice(values)
        return HEADER.pack(*fields) + data[HEADER.size :]

    return change


def _sizes(change: Callable[[random.Random, np.ndarray], np.ndarray]) -> Callable[[random.Random, bytes], bytes]:
    """Return a function that changes sizes (if possible with the same sum), with matching or old pointers."""

    def changed(rng: random.Random, data: bytes) -> bytes:
        count = HEADER.unpack(data[: HEADER.size])[3]
        sizes = np.frombuffer(data, dtype="<i4", count=count, offset=HEADER.size).copy()
        pointers = data[HEADER.size + 4 * count :]
        sizes = change(rng, sizes)
        if rng.random() < 0.5:
            pointers = (2 * np.concatenate([[0], np.cumsum(sizes[:-1].astype(np.int64))])).astype("<i8").tobytes()
        return data[: HEADER.size] + sizes.astype("<i4").tobytes() + pointers

    return changed


def _negative(_: random.Random, sizes: np.ndarray) -> np.ndarray:
    total = sizes[0] + sizes[1]
    sizes[0], sizes[1] = total + 3, -3
    return sizes


def _zero(_: random.Random, sizes: np.ndarray) -> np.ndarray:
    sizes[0], sizes[1] = sizes[0] + sizes[1], 0
    return sizes


def _shifted(_: random.Random, sizes: np.ndarray) -> np.ndarray:
    sizes[0], sizes[1] = sizes[0] + 1, sizes[1] - 1
    return sizes


def _huge(rng: random.Random, sizes: np.ndarray) -> np.ndarray:
    sizes[rng.randrange(len(sizes))] = 2**31 - 1
    return sizes


_INDEX: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "another magic": _field(0, b"MMIDIDX\x00\x01", b"TNTIDX\x00\x00\x00", b"\0" * 9),
    "another version": _field(1, 0, 2, 2**64 - 1),
    "another type": _field(2, 0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 255),
    "another count": _field(3, 0, 1, 2, 79, 81, 2**31, 2**62, 2**63, 2**64 - 1),
    "a negative size": _sizes(_negative),
    "a size of zero": _sizes(_zero),
    "a shifted sentence": _sizes(_shifted),
    "a huge size": _sizes(_huge),
}
