"""Training speed on a GPU: tokens per second, memory and model FLOPs utilisation.

    make bench-gpu        (python benchmarks/bench_gpu.py [--arch transformer] [--max-tokens 16384] [--updates 60])

The training loop runs on random tokens: a vocabulary of 32k, sentence lengths like in WMT (log-normal, median of 22
tokens, maximum of 200), with label smoothing and dropout, and in bf16 if the device supports it. The first updates, in
which memory is allocated, are left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from figures import Figure, report_figures

from kdmt.config import Train
from kdmt.corpus.batching import ParallelData, open_parallel
from kdmt.corpus.indexed import IndexedWriter
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer, count_parameters
from kdmt.objectives.build import build_objective
from kdmt.runtime import pick_device
from kdmt.train.data import BinarizedData
from kdmt.train.loop import Trainer
from kdmt.train.run_log import Progress

VOCAB, PAIRS = 32_000, 200_000
ARCHITECTURES = {"transformer": {"dropout": 0.1}, "transformer_big": {"dropout": 0.3}}
LOG_INTERVAL = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--arch", choices=list(ARCHITECTURES), action="append", help="Architecture, repeatable (default: all)."
    )
    parser.add_argument(
        "--max-tokens", type=int, default=16_384, help="Maximum number of tokens in a batch (default: %(default)s)."
    )
    parser.add_argument("--updates", type=int, default=60, help="Number of updates (default: %(default)s).")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="Number of sentence pairs (default: %(default)s).")
    parser.add_argument("--device", default="cuda", help="Device (default: %(default)s).")
    parser.add_argument("--compile", action="store_true", help="Whether to set `train.compile` (default: no).")
    options = parser.parse_args()
    device = pick_device(options.device)
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = make_corpus(Path(folder), options.pairs)
        for arch in options.arch or ARCHITECTURES:
            records = train(Path(folder) / arch, data, arch, options, device)
            details[arch] = records[-1]
            for key, unit in (
                ("tokens_per_second", "tokens/s"),
                ("model_flops_utilisation", "ratio"),
                ("memory_gb", "GB"),
            ):
                if key in records[0]:
                    figures.append(Figure(f"{arch}_{key}", median(record[key] for record in records), unit))
    settings = {"vocabulary": VOCAB, "max_tokens": options.max_tokens, "compile": options.compile, "last": details}
    report_figures("gpu", figures, settings=settings)


def make_corpus(folder: Path, pairs: int) -> ParallelData:
    """Write a corpus of random tokens; the two sides of a pair have similar lengths."""
    rng = np.random.default_rng(1)
    lengths = np.exp(rng.normal(np.log(22), 0.6, pairs)).clip(1, 199).astype(int)
    other = (lengths * np.exp(rng.normal(0, 0.15, pairs))).clip(1, 199).astype(int)
    for name, sizes in (("a", lengths), ("b", other)):
        with IndexedWriter(folder / name, VOCAB) as writer:
            tokens = rng.integers(4, VOCAB, int(sizes.sum()) + pairs).astype(np.int32)
            tokens[np.cumsum(sizes + 1) - 1] = 2
            writer.add_flat(tokens, (sizes + 1).astype(np.int32))
    return open_parallel([(folder / "a", folder / "b")])


def train(
    run: Path, corpus: ParallelData, arch: str, options: argparse.Namespace, device: torch.device
) -> list[dict[str, float]]:
    """Train a model, and return the records of the training log without the first two."""
    settings = Train(
        max_updates=options.updates,
        max_tokens=options.max_tokens,
        log_interval_updates=LOG_INTERVAL,
        validate_interval_updates=options.updates,
        save_interval_updates=10 * options.updates,
        validate_bleu=False,
        best_metric="loss",
        compile=options.compile,
    )
    data = BinarizedData(corpus, settings, seed=1)
    torch.manual_seed(1)
    if device.type == "cuda":
        gc.collect()  # frees the previous model
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    config = architecture(arch, {"share_all_embeddings": True, **ARCHITECTURES[arch]})
    model = build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    print(f"{arch}: {count_parameters(model):,} parameters", file=sys.stderr)
    trainer = Trainer(
        objective=build_objective(model, label_smoothing=0.1),
        data=data,
        settings=settings,
        seed=1,
        run=run,
        companions=[],
        validate=lambda _: {"loss": 1.0, "nll": 1.0},
        progress=Progress(run / "metrics.jsonl", name=arch),
        device=device,
    )
    trainer.run()
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "train"][2:]


if __name__ == "__main__":
    main()
