"""Training speed, compared with the real fairseq 0.12.2: same model, data-bin and batches, in turns in one run.

    make bench-train          (python benchmarks/bench_train.py [--rounds 9] [--arch NAME])
    make bench-train-quality  (python benchmarks/bench_train.py --quality)

Two processes train on Multi30k (10k joint BPE, max_tokens 4096): one with the training loop of kdmt, one with the
`Trainer` of fairseq. One process waits while the other trains. `train_ratio_<arch>` is the number of target tokens per
second of kdmt divided by that of fairseq, as the median over the rounds. Dropout has the rate of the recipe. The
batches of fairseq are collated before its time is measured.

`--quality` checks that the quality is the same: both sides train `transformer_multi30k` from scratch for 500 updates
with three seeds. `valid_loss_distance_sd` is the difference between the mean validation losses, in standard deviations
of the losses of fairseq.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from figures import REPOSITORY, Figure, report_figures

from kdmt.config import Train
from kdmt.corpus.batching import open_parallel
from kdmt.corpus.binarize import data_prefix
from kdmt.languages import Direction
from kdmt.train.data import BinarizedData

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
PIPELINE = Path("pipelines/multi30k-paper.yaml")
LANGS = ("en", "de")
MAX_TOKENS = 4096
INTERVAL = 4  # updates between two readings of the clock
QUALITY_UPDATES, QUALITY_SEEDS = 500, (1, 2, 3)

# architecture -> training settings of the published recipes (Wu et al. 2021; fairseq, examples/translation)
JOBS: dict[str, dict[str, Any]] = {
    "transformer_multi30k": {
        "model": {"dropout": 0.3, "share_all_embeddings": True},
        "lr": 5e-3,
        "warmup_updates": 2000,
        "weight_decay": 0.0,
    },
    "transformer_iwslt_de_en": {
        "model": {"dropout": 0.3, "share_decoder_input_output_embed": True},
        "lr": 5e-4,
        "warmup_updates": 4000,
        "weight_decay": 1e-4,
    },
}
# fairseq has no architecture of 4+4 layers of width 128: a similar architecture and the settings that differ
FAIRSEQ_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "transformer_multi30k": (
        "transformer_iwslt_de_en",
        {
            f"{side}_{field}": value
            for side in ("encoder", "decoder")
            for field, value in {"layers": 4, "embed_dim": 128, "ffn_embed_dim": 256, "attention_heads": 4}.items()
        },
    ),
    "transformer_iwslt_de_en": ("transformer_iwslt_de_en", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="Number of rounds (default: %(default)s).")
    parser.add_argument(
        "--updates", type=int, default=4, help="Number of updates of each side per round (default: %(default)s)."
    )
    parser.add_argument("--arch", choices=list(JOBS), action="append", help="Architecture, repeatable (default: all).")
    parser.add_argument(
        "--quality", action="store_true", help="Whether to compare validation losses instead of speed (default: no)."
    )
    parser.add_argument(
        "--fairseq-python",
        type=Path,
        default=REPOSITORY / ".fairseq-env" / "bin" / "python",
        help="Python of the environment with fairseq (default: that of `make fairseq-env`).",
    )
    options = parser.parse_args()
    if options.updates % INTERVAL:
        sys.exit(f"bench_train: --updates {options.updates} is not a multiple of {INTERVAL}")
    if not options.fairseq_python.is_file():
        sys.exit(f"bench_train: {options.fairseq_python}: there is no such file; run `make fairseq-env` first")

    subprocess.run([str(KDMT), "prepare", str(PIPELINE)], check=True)
    data_bin = Path("runs") / PIPELINE.stem / "prepare" / "data-bin"
    settings: dict[str, Any] = {"max_tokens": MAX_TOKENS, "jobs": JOBS}
    if options.quality:
        arch = "transformer_multi30k"
        figures, losses = compare_quality(describe_job(arch, data_bin), options)
        settings |= {"updates": QUALITY_UPDATES, "losses": losses}
        report_figures("train-quality", figures, settings=settings)
        return
    figures, rounds = [], {}
    for arch in options.arch or JOBS:
        found, rounds[arch] = compare_speed(arch, describe_job(arch, data_bin), options)
        figures += found
    report_figures("train", figures, settings={**settings, "updates_a_round": options.updates, "rounds": rounds})


def describe_job(arch: str, data_bin: Path) -> dict[str, Any]:
    """Return the job of both sides: the architecture, the batches and the training settings."""
    common = {"data_bin": str(data_bin), "langs": LANGS, "max_tokens": MAX_TOKENS, "interval": INTERVAL, "seed": 1}
    return {"arch": arch, **common, "batches": make_epoch(data_bin), **JOBS[arch]}


def make_epoch(data_bin: Path) -> list[list[int]]:
    """Return the batches of an epoch in their order, as indices of sentence pairs."""
    source, target = (data_prefix(data_bin, "train", Direction(*LANGS), lang) for lang in LANGS)
    data = BinarizedData(open_parallel([(source, target)]), Train(max_tokens=MAX_TOKENS), seed=1)
    return [batch.tolist() for batch in data.epoch(1)]


def compare_speed(arch: str, job: dict[str, Any], options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Train both sides in turns; the side that begins alternates between rounds."""
    rounds = []
    with ExitStack() as stack:
        sides = {name: stack.enter_context(worker(name, job, options)) for name in ("kdmt", "fairseq")}
        about = {name: sides[name].request("about") for name in ("fairseq", "kdmt")}  # after both have loaded
        for side in sides.values():
            side.train(options.updates)  # allocations, first use of every shape; kdmt selects the precision
        about["kdmt"] = sides["kdmt"].request("about")
        for number in range(options.rounds):
            speeds = {}
            for name in list(sides)[:: 1 if number % 2 else -1]:
                done = sides[name].train(options.updates)
                speeds[name] = done["tokens"] / done["seconds"]
            rounds.append(speeds)
            print(f"{arch}: kdmt {speeds['kdmt']:.0f}, fairseq {speeds['fairseq']:.0f} tokens/s", file=sys.stderr)
    ratios = [speeds["kdmt"] / speeds["fairseq"] for speeds in rounds]
    figures = [
        Figure(f"train_ratio_{arch}", median(ratios), "ratio"),
        Figure(f"train_tokens_per_second_{arch}", median(speeds["kdmt"] for speeds in rounds), "tokens/s"),
        Figure(f"fairseq_tokens_per_second_{arch}", median(speeds["fairseq"] for speeds in rounds), "tokens/s"),
    ]
    return figures, {"rounds": rounds, **about}


def compare_quality(job: dict[str, Any], options: argparse.Namespace) -> tuple[list[Figure], dict[str, list[float]]]:
    """Return the figures, and the validation losses of both sides after the same number of updates, one per seed."""
    losses: dict[str, list[float]] = {"kdmt": [], "fairseq": []}
    for seed, name in itertools.product(QUALITY_SEEDS, losses):
        with worker(name, {**job, "seed": seed}, options) as side:
            side.train(QUALITY_UPDATES)
            losses[name].append(side.request("valid")["loss"])
            print(f"seed {seed}: {name} {losses[name][-1]:.4f}", file=sys.stderr)
    spread = stdev(losses["fairseq"])
    return [
        Figure("valid_loss_kdmt", fmean(losses["kdmt"]), "nats"),
        Figure("valid_loss_fairseq", fmean(losses["fairseq"]), "nats"),
        Figure("valid_loss_fairseq_sd", spread, "nats"),
        Figure("valid_loss_distance_sd", abs(fmean(losses["kdmt"]) - fmean(losses["fairseq"])) / spread, "sd"),
    ], losses


# ---------------------------------------------------------------------------------------------------------- workers


class Worker:
    """A process that trains on request."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def request(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench_train: a worker ended with {self.process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def train(self, updates: int) -> dict[str, float]:
        return self.request(f"train {updates}")


@contextmanager
def worker(name: str, job: dict[str, Any], options: argparse.Namespace) -> Iterator[Worker]:
    python = sys.executable
    if name == "fairseq":
        python = str(options.fairseq_python)
        arch, model = FAIRSEQ_MODELS[job["arch"]]
        job = {**job, "arch": arch, "model": {**model, **job["model"]}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        script = Path(__file__).with_name(f"train_worker_{name}.py")
        command = [python, str(script), str(path)]
        with (
            (Path(folder) / "log").open("w+") as log,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            try:
                yield Worker(process)
            finally:
                if process.poll() not in (None, 0):
                    log.seek(0)
                    print(log.read()[-3000:], file=sys.stderr)
                process.stdin.close()  # type: ignore[union-attr]
                process.wait()


if __name__ == "__main__":
    main()
