"""Worker process of bench_train.py that trains with the training loop of kdmt.

    python benchmarks/train_worker_kdmt.py JOB.json

Commands and replies are those of train_worker_fairseq.py. The training loop of kdmt runs without changes, including the
loading of batches. It waits for the next command where it reports its figures; the meter of its speed is paused there,
since the loop reports the figures of an update after it has begun to measure the next ones.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdmt.config import Train
from kdmt.corpus.batching import ParallelData, open_parallel
from kdmt.corpus.binarize import data_prefix, dictionary_path
from kdmt.corpus.vocabulary import Dictionary
from kdmt.languages import Direction
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import Objective
from kdmt.runtime import use_threads
from kdmt.train.arithmetic import read_arithmetic
from kdmt.train.data import BinarizedData
from kdmt.train.loop import Trainer
from kdmt.train.meter import Meter
from kdmt.train.run_log import Progress
from kdmt.train.validation import validation_loss


class GivenBatches(BinarizedData):
    """The batches of the job in their order, repeated in every epoch."""

    def __init__(self, *, job: dict[str, Any], **others: Any) -> None:
        super().__init__(**others)
        self.given = [np.asarray(batch) for batch in job["batches"]]

    def epoch(self, epoch: int) -> Sequence[np.ndarray]:  # noqa: ARG002
        return self.given


class Commands(Progress):
    """Progress reporter of the loop that sends a reply after each round of updates and waits for the next command."""

    def __init__(self, metrics: Path, job: dict[str, Any], objective: Objective, valid: BinarizedData) -> None:
        super().__init__(metrics, name=job["arch"])
        self.objective, self.valid, self.run = objective, valid, metrics.parent
        self.replies = os.fdopen(os.dup(1), "w")
        self.interval = job["interval"]
        self.todo = 0
        self.done: dict[str, float] = {}
        self.meter: Meter | None = None

    def wait(self) -> None:
        """Reply to commands until one requests updates; exit at the end of the input."""
        while self.todo == 0:
            name, *arguments = (sys.stdin.readline() or "end").split()
            if name == "train":
                self.todo, self.done = int(arguments[0]), {"seconds": 0.0, "tokens": 0}
            elif name == "about":
                chosen = read_arithmetic(self.run)
                self.reply({"torch": torch.__version__} | (asdict(chosen) if chosen is not None else {}))
            elif name == "valid":
                self.objective.eval()
                device = torch.device("cpu")
                self.reply(validation_loss(self.objective, self.valid, self.valid.batches(), device=device))
            else:
                sys.exit()

    def reply(self, values: dict[str, Any]) -> None:
        print(json.dumps(values), file=self.replies, flush=True)

    def log_training(self, *, update: int, **figures: float) -> None:  # noqa: ARG002
        self.done["seconds"] += figures["seconds"]
        self.done["tokens"] += round(figures["tokens_per_second"] * figures["seconds"])
        self.todo -= self.interval
        if self.todo <= 0:
            self.reply(self.done)
            self.todo = 0
            assert self.meter is not None
            with self.meter.paused():
                self.wait()


def open_split(data_bin: Path, split: str, langs: list[str]) -> ParallelData:
    source, target = (data_prefix(data_bin, split, Direction(*langs), lang) for lang in langs)
    return open_parallel([(source, target)])


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    use_threads(job.get("threads", 0))
    settings = Train(
        max_updates=10**9,
        max_tokens=job["max_tokens"],
        lr=job["lr"],
        warmup_updates=job["warmup_updates"],
        weight_decay=job["weight_decay"],
        precision=job.get("precision", "auto"),
        log_interval_updates=job["interval"],
        save_interval_updates=10**9,
        validate_interval_updates=10**9,
    )
    data_bin, langs = Path(job["data_bin"]), job["langs"]
    train, valid = (open_split(data_bin, split, langs) for split in ("train", "valid"))
    sizes = [len(Dictionary.load(dictionary_path(data_bin, lang))) for lang in langs]
    torch.manual_seed(job["seed"])
    config = architecture(job["arch"], job["model"])
    model = build_transformer(config, src_vocab_size=sizes[0], tgt_vocab_size=sizes[1])
    objective = build_objective(model, label_smoothing=settings.label_smoothing)
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        commands = Commands(metrics, job, objective, BinarizedData(valid, settings, seed=1))
        commands.wait()
        trainer = Trainer(
            objective=objective,
            data=GivenBatches(job=job, data=train, settings=settings, seed=job["seed"]),
            settings=settings,
            seed=job["seed"],
            run=Path(folder),
            companions=[],
            validate=lambda _: {},
            progress=commands,
            device=torch.device("cpu"),
        )
        commands.meter = trainer.meter
        trainer.run()


if __name__ == "__main__":
    main()
