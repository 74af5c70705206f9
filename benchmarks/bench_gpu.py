"""Training and decoding speed on a GPU: tokens or sentences per second, peak memory and model FLOPs utilisation.

    make gpu                   (the tests of tests/gpu, then this benchmark)
    python benchmarks/bench_gpu.py [--output FOLDER] [--only NAME]... [--seconds 420]

The training loop runs on random tokens: a vocabulary of 32k, sentence lengths like in WMT (log-normal, median of 22
tokens, maximum of 200), with label smoothing and dropout, and in bf16 if the device supports it. The first updates, in
which memory is allocated and layers are compiled, are left out. Each workload prints its figures when it ends; one that
fails prints the error, the others go on, and the exit status is 1. Workloads that do not begin within `--seconds` are
left out and named.

Workloads whose names end in `_pytorch_losses` are the ones before the ending, with losses from PyTorch operations in
the place of the Triton kernels. They are left out if the device has no kernels, since there is only one path then.

On a CPU all workloads run at toy sizes, which tests the benchmark and measures nothing.

Without an installed kdmt, set PYTHONPATH to the root of the repository. The requirements are then torch, numpy,
safetensors, PyYAML, pydantic, pycountry, regex, rich, sentencepiece, subword-nmt and, for its workload, ctranslate2.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from figures import RESULTS, Figure, write_figures

from kdmt.config import Decode, Student, Train
from kdmt.corpus.batching import ParallelData, open_parallel
from kdmt.corpus.indexed import IndexedWriter
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.engine import Engine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.interop.ctranslate2_export import export_model
from kdmt.losses import fused
from kdmt.models.architecture import NATConfig, architecture
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.transformer import Transformer
from kdmt.objectives.build import build_objective
from kdmt.runtime import pick_device
from kdmt.train.data import BinarizedData
from kdmt.train.loop import Trainer
from kdmt.train.meter import peak_memory
from kdmt.train.run_log import Progress
from kdmt.types import SPECIALS


@dataclass(frozen=True)
class Sizes:
    """Sizes of all workloads: those that fill a GPU, or toy ones."""

    vocabulary: int
    pairs: int
    max_tokens: int
    updates: int
    log_interval: int
    sentences: int
    architectures: Mapping[str, str]


FULL = Sizes(32_000, 200_000, 16_384, 50, 10, 2_000, {"base": "transformer", "big": "transformer_big"})
TOY = Sizes(400, 200, 256, 6, 2, 8, dict.fromkeys(("base", "big"), "transformer_tiny"))


@dataclass(frozen=True)
class Training:
    """A training workload: size of the model, sections of a student, settings of `train`, and path of the losses."""

    size: str
    student: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    kernels: bool = True  # whether the losses use Triton kernels, where the device has them


@dataclass(frozen=True)
class Decoding:
    """A decoding workload with beam 5."""

    engine: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_WORD_KD: Mapping[str, Any] = {"word_kd": {}}
_CTC_GLANCING: Mapping[str, Any] = {"nat": {"family": "ctc", "glancing": [[0, 0.5]]}}
# the most important first, since the time may end before the last
WORKLOADS: dict[str, Training | Decoding] = {
    "base": Training("base"),
    "base_packed": Training("base", train={"packing": True, "compile": True}),
    "big": Training("big"),
    "big_packed": Training("big", train={"packing": True, "compile": True}),
    "word_kd": Training("base", _WORD_KD),
    "ctc_glancing": Training("base", _CTC_GLANCING),
    "beam": Decoding("pytorch"),
    "ctranslate2_float16": Decoding("ctranslate2"),
    "base_pytorch_losses": Training("base", kernels=False),
    "word_kd_pytorch_losses": Training("base", _WORD_KD, kernels=False),
    "ctc_glancing_pytorch_losses": Training("base", _CTC_GLANCING, kernels=False),
    "base_compiled": Training("base", train={"compile": True}),
    "big_compiled": Training("big", train={"compile": True}),
}


def main() -> None:
    options = parse_options()
    device = pick_device(options.device)
    is_gpu = device.type == "cuda"
    sizes, output = FULL if is_gpu else TOY, options.output or (RESULTS if is_gpu else None)
    figures: list[Figure] = []
    failed, left_out = list[str](), list[str]()
    has_kernels = fused.kernels(device, torch.bfloat16) is not None
    end = time.monotonic() + options.seconds
    settings = {"sizes": vars(sizes), "left_out": left_out, "failed": failed}
    with tempfile.TemporaryDirectory() as folder:
        data = make_corpus(Path(folder), sizes)
        for name in options.only or WORKLOADS:
            if not has_kernels and not uses_kernels(WORKLOADS[name]):
                print(f"{name}: left out, there is only one path: {device} has no Triton kernels", flush=True)
                continue
            if time.monotonic() > end:
                left_out.append(name)
                continue
            free_memory(device)
            try:
                found = measure(WORKLOADS[name], Path(folder) / name, data, sizes, device)
            except Exception:  # one workload must not cost the minutes of the others; the exit status is 1
                traceback.print_exc()
                failed.append(name)
                continue
            for what, value, unit in found:
                figures.append(Figure(f"gpu_{name}_{what}", value, unit))
                print(figures[-1], flush=True)
            if output is not None:
                write_figures("gpu", figures, settings=settings, command="make gpu", results_dir=output)
    if not is_gpu:
        print("toy sizes on a CPU: these figures measure nothing", file=sys.stderr)
    if left_out:
        print(f"left out after {options.seconds:g} s: {', '.join(left_out)}", file=sys.stderr)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, help="Folder of gpu.json (default: benchmarks/results on a GPU; none on a CPU)."
    )
    parser.add_argument("--only", choices=list(WORKLOADS), action="append", help="Workload, repeatable (default: all).")
    parser.add_argument(
        "--seconds", type=float, default=420.0, help="Seconds after which no workload begins (default: %(default)s)."
    )
    parser.add_argument("--device", default="auto", help="Device (default: %(default)s, a GPU if there is one).")
    return parser.parse_args()


def measure(
    workload: Training | Decoding, folder: Path, data: ParallelData, sizes: Sizes, device: torch.device
) -> list[tuple[str, float, str]]:
    """Return the name, the value and the unit of each figure of a workload."""
    if isinstance(workload, Decoding):
        return decode(workload, folder, data, sizes, device)
    return train(workload, folder, data, sizes, device)


def uses_kernels(workload: Training | Decoding) -> bool:
    """Return whether a workload uses the Triton kernels of a device that has them."""
    return isinstance(workload, Decoding) or workload.kernels


def free_memory(device: torch.device) -> None:
    """Free the memory of the previous workload and forget its peak."""
    gc.collect()
    if device.type == "cuda":
        torch._dynamo.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def make_corpus(folder: Path, sizes: Sizes) -> ParallelData:
    """Return pairs of random tokens whose two sides have similar lengths."""
    rng, pairs = np.random.default_rng(1), sizes.pairs
    lengths = np.exp(rng.normal(np.log(22), 0.6, pairs)).clip(1, 199).astype(int)
    other = (lengths * np.exp(rng.normal(0, 0.15, pairs))).clip(1, 199).astype(int)
    for name, lines in (("a", lengths), ("b", other)):
        with IndexedWriter(folder / name, sizes.vocabulary) as writer:
            tokens = rng.integers(4, sizes.vocabulary, int(lines.sum()) + pairs).astype(np.int32)
            tokens[np.cumsum(lines + 1) - 1] = 2
            writer.add_flat(tokens, (lines + 1).astype(np.int32))
    return open_parallel([(folder / "a", folder / "b")])


def make_model(size: str, sizes: Sizes, nat: Mapping[str, Any] | None = None, seed: int = 1) -> Transformer:
    torch.manual_seed(seed)
    dropout = 0.3 if size == "big" else 0.1
    config = architecture(sizes.architectures[size], {"share_all_embeddings": True, "dropout": dropout})
    vocabulary = {"src_vocab_size": sizes.vocabulary, "tgt_vocab_size": sizes.vocabulary}
    if nat is None:
        return build_transformer(config, **vocabulary)
    return build_nonautoregressive(config, NATConfig(family=nat["family"]), **vocabulary)


def train(
    workload: Training, run: Path, corpus: ParallelData, sizes: Sizes, device: torch.device
) -> list[tuple[str, float, str]]:
    settings = Train(
        max_updates=sizes.updates,
        max_tokens=sizes.max_tokens,
        log_interval_updates=sizes.log_interval,
        validate_interval_updates=sizes.updates,
        save_interval_updates=10 * sizes.updates,
        validate_bleu=False,
        best_metric="loss",
        **workload.train,
    )
    student = Student.model_validate({**workload.student, "train": settings}) if workload.student else None
    model = make_model(workload.size, sizes, workload.student.get("nat"))
    teachers = [make_model(workload.size, sizes, seed=2).eval()] if "word_kd" in workload.student else []
    trainer = Trainer(
        objective=build_objective(model, student, label_smoothing=0.1, teachers=teachers),
        data=BinarizedData(corpus, settings, seed=1),
        settings=settings,
        seed=1,
        run=run,
        companions=[],
        validate=lambda _: {"loss": 1.0, "nll": 1.0},
        progress=Progress(run / "metrics.jsonl", name=run.name),
        device=device,
    )
    with nullcontext() if workload.kernels else fused.without_kernels():
        trainer.run()
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    records = [line for line in lines if line["kind"] == "train"][2:]
    keys = {"tokens_per_second": "tokens/s", "model_flops_utilisation": "ratio", "memory_gb": "GB"}
    names = {"model_flops_utilisation": "mfu", "memory_gb": "peak_gb"}
    return [
        (names.get(key, key), median(record[key] for record in records), unit)
        for key, unit in keys.items()
        if key in records[0]
    ]


def decode(
    workload: Decoding, folder: Path, corpus: ParallelData, sizes: Sizes, device: torch.device
) -> list[tuple[str, float, str]]:
    sources = [corpus[index][0] for index in range(sizes.sentences)]
    engine = ENGINES[workload.engine](make_model("base", sizes).eval(), folder, device)
    settings = Decode(beam=5, max_len_a=0.0, max_len_b=30, **workload.settings)
    engine.decode(sources[: max(sizes.sentences // 10, 1)], settings)  # loads kernels and allocates memory
    started = time.perf_counter()
    engine.decode(sources, settings)
    seconds = time.perf_counter() - started
    return [
        ("sentences_per_second", len(sources) / seconds, "sentences/s"),
        ("peak_gb", peak_memory(device) / 1e9, "GB"),
    ]


def open_pytorch(model: Transformer, _: Path, device: torch.device) -> Engine:
    return TorchEngine(model, device=device)


def open_ctranslate2(model: Transformer, folder: Path, device: torch.device) -> Engine:
    symbols: Sequence[str] = [*SPECIALS, *(f"w{number}" for number in range(model.tgt_vocab_size - len(SPECIALS)))]
    export_model(model, folder, src_symbols=symbols, tgt_symbols=symbols)
    compute_type = "float16" if device.type == "cuda" else "default"
    return CTranslate2Engine(folder, device=device.type, compute_type=compute_type)


ENGINES: dict[str, Callable[[Transformer, Path, torch.device], Engine]] = {
    "pytorch": open_pytorch,
    "ctranslate2": open_ctranslate2,
}


if __name__ == "__main__":
    main()
