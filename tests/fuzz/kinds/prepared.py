"""Outputs of `prepare`, damaged before the stages that read them."""

from __future__ import annotations

import random
from pathlib import Path

from fuzz.case import Case, stage
from fuzz.formats import damage_any, rewrite_manifest

STAGE = "runs/tiny/prepare"
SHORT = ("teacher.train.max_updates=2", "teacher.train.validate_interval_updates=2")


def damage(rng: random.Random, folder: Path) -> Case:
    files = [path for path in sorted((folder / STAGE).rglob("*")) if path.is_file() and path.name != "manifest.json"]
    what = damage_any(rng, rng.choice(files))
    if rewritten := rng.random() < 0.7:
        rewrite_manifest(folder / STAGE)
    command = rng.choice(
        [
            stage("teacher", *SHORT, "teacher.seed=2"),
            stage("distill", "distill.decode.max_len_b=6"),
            stage("student", "students.raw.train.lr=0.02", more=("--student", "raw")),
            stage("score", "score.max_len_b=9"),
            stage("knowledge", "knowledge.k=3"),
            stage("prepare"),
        ]
    )
    return Case(f"{what}{'; manifest rewritten' if rewritten else ''}", (command,))
