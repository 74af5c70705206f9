"""Worker process of bench_train.py that trains with the real fairseq 0.12.2. Runs under Python 3.8.

    .fairseq-env/bin/python benchmarks/train_worker_fairseq.py JOB.json

The worker reads commands from standard input, one per line, and replies to each with one line of JSON:

    train N     N updates on the next batches of the job --> {"seconds": ..., "tokens": ...}
    about       --> versions, threads, precision
    valid       the validation set --> {"loss": ..., "nll": ...} in nats per token

Batches are collated before the time is measured, as fairseq's own loader does it in the background.
"""

import itertools
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer


def main():
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # redirects the output of fairseq to standard error
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    trainer, task = build(job)
    batches = itertools.cycle(job["batches"])
    for command in sys.stdin:
        name, *arguments = command.split()
        if name == "about":
            reply = {"fairseq": version("fairseq"), "torch": torch.__version__, "threads": torch.get_num_threads()}
        else:
            reply = train(trainer, task, batches, int(arguments[0])) if name == "train" else validate(trainer, task)
        print(json.dumps(reply), file=replies, flush=True)


def build(job):
    arguments = [
        *(job["data_bin"], "--task", "translation", "--source-lang", job["langs"][0], "--target-lang", job["langs"][1]),
        *("--arch", job["arch"], "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
        *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--lr-scheduler", "inverse_sqrt", "--clip-norm", "0"),
        *("--lr", str(job["lr"]), "--warmup-updates", str(job["warmup_updates"]), "--warmup-init-lr", "1e-7"),
        *("--weight-decay", str(job["weight_decay"]), "--max-tokens", str(job["max_tokens"])),
        *("--seed", str(job["seed"]), "--cpu", "--no-progress-bar"),
    ]
    for name, value in job["model"].items():
        flag = "--" + name.replace("_", "-")
        arguments += [flag] if value is True else [flag, str(value)]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))
    utils.import_user_module(cfg.common)
    task = tasks.setup_task(cfg.task)
    for split in ("train", "valid"):
        task.load_dataset(split)
    torch.manual_seed(job["seed"])
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    trainer.begin_epoch(1)
    return trainer, task


def train(trainer, task, batches, count):
    dataset = task.dataset("train")
    samples = [dataset.collater([dataset[i] for i in next(batches)]) for _ in range(count)]
    started = time.perf_counter()
    with metrics.aggregate("train"):
        for sample in samples:
            trainer.train_step([sample])
    return {"seconds": time.perf_counter() - started, "tokens": sum(int(sample["ntokens"]) for sample in samples)}


def validate(trainer, task):
    dataset = task.dataset("valid")
    sums = {"loss": 0.0, "nll_loss": 0.0, "ntokens": 0.0}
    trainer.model.eval()
    with torch.no_grad():
        for start in range(0, len(dataset), 100):
            sample = dataset.collater([dataset[i] for i in range(start, min(start + 100, len(dataset)))])
            _, _, output = trainer.criterion(trainer.model, sample)
            for key in sums:
                sums[key] += float(output[key])
    return {"loss": sums["loss"] / sums["ntokens"], "nll": sums["nll_loss"] / sums["ntokens"]}


if __name__ == "__main__":
    main()
