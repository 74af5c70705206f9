"""Manifests of stages, pointers to checkpoints, and logs."""

from __future__ import annotations

import random
from pathlib import Path

from fuzz.case import EXTENDED, Case, Command, stage
from fuzz.damage import damage_file, damage_json

STAGES = ("prepare", "teacher", "distill", "knowledge/raw", "students/raw/seed_1", "score")


def damage(rng: random.Random, folder: Path) -> Case:
    runs = folder / "runs/tiny"
    if rng.random() < 0.25:
        return _plan(rng, runs)
    records = [runs / each / name for each in STAGES for name in ("manifest.json", "manifest.json", "config.json")]
    records += [
        runs / each / name for each in STAGES[1:2] for name in ("best", "last", "arithmetic.json", "metrics.jsonl")
    ]
    records += [runs / name for name in ("scores.json", "significance.json", "report.html")]
    records += [runs / name for name in ("diagnostics.json", "prepare/report.json")]
    path = rng.choice([record for record in records if record.exists()])
    what = damage_file(rng, path)
    return Case(f"{path.relative_to(folder)}: {what}", (_command(rng),), again=None)


def _plan(rng: random.Random, runs: Path) -> Case:
    """Turn a finished stage into an unfinished one with a damaged plan."""
    each = rng.choice(STAGES)
    manifest = runs / each / "manifest.json"
    data, what = damage_json(rng, manifest.read_bytes())
    manifest.unlink()
    (runs / each / "plan.json").write_bytes(data)
    return Case(f"{each}/plan.json: {what}", (_command(rng),))


def _command(rng: random.Random) -> Command:
    return rng.choice(
        [
            *(stage(name) for name in ("prepare", "teacher", "distill", "knowledge", "student", "score")),
            stage("teacher", EXTENDED),
            stage("student", "students.raw.train.max_updates=6", more=("--student", "raw")),
            stage("score", "score.beams=[1]"),
            Command(("distill", "tiny.yaml", "--verify", "--verify-seed", "1")),
            Command(("translate", "runs/tiny/teacher"), stdin=b"ba be\n", lines=1),
        ]
    )
