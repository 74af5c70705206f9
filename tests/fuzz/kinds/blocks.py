"""Outputs of `distill`: blocks with a matching checksum, and the files made from them."""

from __future__ import annotations

import random
from pathlib import Path

from fuzz.case import Case, Command, stage
from fuzz.formats import damage_any, rewrite_manifest

STAGE = "runs/tiny/distill"


def damage(rng: random.Random, folder: Path) -> Case:
    made = folder / STAGE
    blocks = sorted((made / "blocks").iterdir())
    others = [path for path in sorted(made.rglob("*")) if path.is_file() and path.suffix not in (".gz", ".log")]
    others = [path for path in others if path.name not in ("manifest.json", "config.json")]
    path = rng.choice(blocks if rng.random() < 0.6 else others)
    what = f"{path.relative_to(folder)}: {damage_any(rng, path)}"
    choice = rng.random()
    if choice < 0.25:
        rewrite_manifest(made)
        what += "; manifest rewritten"
    elif choice < 0.8:  # so that the blocks are read again
        (made / "nbest").unlink(missing_ok=True)
        what += "; nbest missing"
    return Case(what, (_command(rng),))


def _command(rng: random.Random) -> Command:
    return rng.choice(
        [
            stage("distill"),
            stage("distill"),
            Command(("distill", "tiny.yaml", "--verify", "--verify-seed", "1")),
            Command(("distill", "tiny.yaml", "--shard", "0/2"), changes=(STAGE,)),
            stage("distill", "distill.failures.max_ratio=2.0"),
            stage("student", "students.distilled.train.max_updates=6", more=("--student", "distilled")),
        ]
    )
