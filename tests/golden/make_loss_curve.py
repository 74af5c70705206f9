"""Make tests/golden/loss_curve/toy_teacher.json: the losses of the toy teacher's first updates.

    .venv/bin/python tests/golden/make_loss_curve.py

tests/pipeline/test_loss_curve.py trains it again and compares. After a change that moves the curve, make the file again
and explain in the commit why the curve may move. The seventh digit differs between processors and numbers of threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "loss_curve" / "toy_teacher.json"
KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
PAIRS = {"train": 2000, "valid": 20, "test": 20}
UPDATES = 80
SETTINGS = [
    *("prepare.tokenizer.vocab_size=500", "prepare.workers=1"),
    *(f"teacher.train.max_updates={UPDATES}", f"teacher.train.validate_interval_updates={UPDATES}"),
    *("teacher.train.max_tokens=1000", "teacher.train.warmup_updates=40", "teacher.train.validate_sentences=1"),
    *("teacher.train.log_interval_updates=1", "teacher.train.precision=float32", "teacher.train.threads=1"),
]


def loss_curve(folder: Path) -> list[float]:
    """Train the toy teacher in an empty folder and return the loss of each update, in nats per token."""
    sizes = [argument for split, size in PAIRS.items() for argument in (f"--{split}", str(size))]
    generator = [sys.executable, str(REPOSITORY / "data/toy/generate.py"), "--out", "data/toy/corpus", *sizes]
    subprocess.run(generator, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    flags = [flag for setting in SETTINGS for flag in ("--set", setting)]
    for stage in ("prepare", "teacher"):
        command = [str(KDMT), stage, str(REPOSITORY / "pipelines/toy.yaml"), *flags]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    records = map(json.loads, (folder / "runs/toy/teacher/metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["kind"] == "train"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        losses = loss_curve(Path(folder))
    GOLDEN.parent.mkdir(exist_ok=True)
    golden = {"pipeline": "pipelines/toy.yaml", "pairs": PAIRS, "settings": SETTINGS, "losses": losses}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
