"""Checkpoint folders: one damaged file, with matching or other checksums."""

from __future__ import annotations

import random
from pathlib import Path

from fuzz.case import EXTENDED, Case, Command, stage
from fuzz.damage import damage_json, replace_path
from fuzz.formats import damage_listed

TEACHER, CTC = "runs/tiny/teacher", "runs/tiny/students/ctc/seed_1"


def damage(rng: random.Random, folder: Path) -> Case:
    run = rng.choice([TEACHER, TEACHER, CTC])
    resumed = run == TEACHER and rng.random() < 0.25
    name = "average"
    if resumed:
        name = (folder / run / "last").read_text().strip()
    checkpoint = folder / run / name
    what, noticed = _damage(rng, checkpoint)
    if resumed:  # training resumes from an earlier one if it is damaged
        return Case(f"{run}/{name}/{what}", (stage("teacher", EXTENDED),))
    return Case(f"{run}/{name}/{what}", (_command(rng, run),), refused=noticed)


def _damage(rng: random.Random, checkpoint: Path) -> tuple[str, bool]:
    """Return a description of the damage, and whether the checksums show it."""
    choice = rng.random()
    if choice < 0.1:
        return f"checksums.json: {_damage_checksums(rng, checkpoint)}", False
    if choice < 0.15:
        return f": {replace_path(rng, checkpoint)}", False
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != "checksums.json")
    return damage_listed(rng, rng.choice(files), checkpoint)


def _damage_checksums(rng: random.Random, checkpoint: Path) -> str:
    path = checkpoint / "checksums.json"
    data, what = damage_json(rng, path.read_bytes())
    path.write_bytes(data)
    return what


def _command(rng: random.Random, run: str) -> Command:
    average = f"{run}/average"
    translate = Command(("translate", average), stdin=b"ba be\n\nbi\n", lines=3)
    if run == CTC:
        return rng.choice([translate, translate, stage("score", "score.max_len_b=9")])
    data = "runs/tiny/prepare/data-bin"
    return rng.choice(
        [
            translate,
            translate,
            Command(("export", "--to", "ctranslate2", average, "out"), makes="out"),
            Command(("export", "--to", "fairseq", average, "out.pt"), makes="out.pt"),
            Command(("generate", data, "--path", average, "--cpu", "--beam", "2")),
            Command(("rescore", average, "text/test.en", "text/test.de", "--workers", "1")),
            stage("distill", "distill.decode.max_len_b=6"),
            stage("distill", "distill.teachers=[runs/tiny/teacher/average]", "distill.engine=torch"),
            stage("knowledge", "knowledge.k=3"),
            stage("student", "students.raw.train.init_from=runs/tiny/teacher/average", *_TEACHERS_SHAPE),
            stage("student", "students.raw.embeddings_from_teacher=true", more=("--student", "raw")),
            stage("student", "students.raw.word_kd={}", more=("--student", "raw")),
            stage("score", "score.max_len_b=9"),
        ]
    )


_TEACHERS_SHAPE = ("students.raw.train.max_updates=3",)
