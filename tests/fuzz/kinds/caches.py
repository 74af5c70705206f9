"""The knowledge cache of a student that learns from it."""

from __future__ import annotations

import random
from pathlib import Path

from fuzz.case import Case, stage
from fuzz.formats import damage_any, rewrite_manifest, sha256

STAGE = "runs/tiny/knowledge/raw"


def damage(rng: random.Random, folder: Path) -> Case:
    made = folder / STAGE
    files = sorted(
        path for path in made.rglob("*") if path.is_file() and path.name not in ("manifest.json", "config.json")
    )
    path = rng.choice(files)
    what = f"{path.relative_to(folder)}: {damage_any(rng, path)}"
    if rng.random() < 0.5 and path.parent.name == "blocks":
        _rewrite_header(made)
        what += "; header rewritten"
    if rng.random() < 0.7:
        rewrite_manifest(made)
        what += "; manifest rewritten"
    command = rng.choice(
        [
            stage("student", "students.cached.train.lr=0.02", more=("--student", "cached")),
            stage("student", "students.cached.train.lr=0.02", more=("--student", "cached")),
            stage("student", "students.cached.train.max_updates=6", more=("--student", "cached")),
            stage("knowledge"),
        ]
    )
    return Case(what, (command,))


def _rewrite_header(made: Path) -> None:
    import json

    path = made / "knowledge.json"
    header = json.loads(path.read_bytes())
    for block in header["blocks"]:
        file = made / block["file"]
        if file.is_file() and not file.is_symlink():
            block["sha256"] = sha256(file)
    path.write_text(json.dumps(header))
