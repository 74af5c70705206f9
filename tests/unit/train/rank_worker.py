"""One rank of the trainings of test_ranks.py, under `torchrun` or alone: one after the other, each into a folder."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from copy_task import TINY, GivenBatches, make_model, make_trainer, train_settings

from kdmt.corpus.batching import open_parallel
from kdmt.train.ranks import joined_ranks


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    with joined_ranks() as ranks:
        for job in jobs:
            data = open_parallel([(Path(job["data"]) / "a", Path(job["data"]) / "b")])
            model = make_model(1, replace(TINY, dropout=job["dropout"])).to(getattr(torch, job["dtype"]))
            make_trainer(
                Path(job["run"]),
                GivenBatches(data, job["batches"]),
                train_settings(**job["settings"]),
                model=model,
                ranks=ranks,
            ).run()


if __name__ == "__main__":
    main()
