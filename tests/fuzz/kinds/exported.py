"""Folders that `kdmt export` wrote for CTranslate2 and ONNX Runtime."""

from __future__ import annotations

import random
from pathlib import Path

from fuzz.case import Case, Command
from fuzz.damage import damage_json, replace_path
from fuzz.formats import damage_listed


def damage_ct2(rng: random.Random, folder: Path) -> Case:
    return _damage(rng, folder / "ct2", "ct2")


def damage_onnx(rng: random.Random, folder: Path) -> Case:
    return _damage(rng, folder / "onnx", "onnx")


def _damage(rng: random.Random, exported: Path, name: str) -> Case:
    files = sorted(path for path in exported.rglob("*") if path.is_file() and path.name != "checksums.json")
    choice, noticed = rng.random(), False
    if choice < 0.05:
        what = f"is {replace_path(rng, exported)}"
    elif choice < 0.15:
        path = exported / "checksums.json"
        data, what = damage_json(rng, path.read_bytes())
        path.write_bytes(data)
        what = f"checksums.json: {what}"
    else:
        what, noticed = damage_listed(rng, rng.choice(files), exported)
    command = translate = Command(("translate", name), stdin=b"ba be\n\nbi\n", lines=3)
    if name == "ct2" and rng.random() < 0.15:
        (exported.parent / "a").write_bytes(b"ba be\nbi\n")
        command = Command(("rescore", "ct2", "a", "a", "--workers", "1"), lines=2)
    return Case(f"{name}/{what}", (command,), again=translate, refused=noticed)
