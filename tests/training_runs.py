"""Training runs of the tiny pipeline through the command line, for tests of the stages that train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from tiny_pipeline import (
    Finished,
    hash_tree,
    kdmt,
)

TINY = Path("runs/tiny")
TEACHER = TINY / "teacher"
RAW = TINY / "students/raw/seed_1"

# With a learning rate this small no float32 weight changes: the saved weights are the initial ones.
STILL = ("lr=1e-30", "warmup_init_lr=0.0", "max_updates=2", "validate_interval_updates=2")


def student(name: str, *sets: str) -> Finished:
    return kdmt("student", "tiny.yaml", "--student", name, *(part for setting in sets for part in ("--set", setting)))


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    measured = ("seconds", "tokens_per_second", "data_wait", "memory_gb")
    return [{k: v for k, v in line.items() if k not in measured} for line in lines]


def results(run: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of a run's checkpoints and pointers."""
    return {k: v for k, v in hash_tree(run).items() if k.startswith(("checkpoint_", "best", "last", "average"))}


def end_before_the_manifest(run: Path) -> None:
    """Change a run to the state of one that was killed before it was complete."""
    record = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    (run / "manifest.json").unlink()
    plan = {key: record[key] for key in ("settings", "extend", "inputs")}
    (run / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


def stop_after_checkpoint_2() -> None:
    """Change a run to the state of one that was killed after checkpoint 2."""
    end_before_the_manifest(RAW)
    for name in ("checkpoint_4", "average"):
        shutil.rmtree(RAW / name)
