"""Loss of students in int8, with and without quantisation-aware fine-tuning (`train.quantization_aware`).

    make bench-qat        (python benchmarks/bench_qat.py [--runs runs] [--seeds 1,2,3])

The students are those of `third_distilled` in pipelines/science-multi30k.yaml, from its teacher. Students that are not
trained yet are trained first. Each is fine-tuned twice for the same updates, with rounding to int8 (`int8`) and without
(`tuned`). CTranslate2 translates the test sets and scores their references in float32 and in int8, on a CPU.

<system> is plain (not fine-tuned), tuned or int8:

qat_nll_loss_<system>     nats per token of the references, in int8 minus in float32, mean over the seeds
qat_bleu_loss_<system>    BLEU in float32 minus in int8, mean over the seeds and test sets
qat_int8_bleu_<system>    BLEU in int8, mean over the seeds and test sets
..._seed<n>               the same for each seed
"""

from __future__ import annotations

import argparse
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml
from figures import Figure, report_figures

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.lines import read_lines
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.interop.ctranslate2_export import export_checkpoint
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.score.metrics import bleu

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
PIPELINE = Path("pipelines/science-multi30k.yaml")
STUDENT = "third_distilled"
FINE_TUNING: dict[str, Any] = {
    "max_updates": 1000,
    "lr": 0.0003,
    "lr_schedule": "inverse_sqrt",
    "warmup_updates": 100,
    "validate_interval_updates": 50,
    "patience": 6,
}
SYSTEMS = ("plain", "tuned", "int8")
SEARCH = Decode(beam=5)
SIDES = ("source", "target")


@dataclass(frozen=True)
class Result:
    """Quality of one model with one number type."""

    nll: float  # nats per token of the references
    bleu: float  # mean over the test sets


def main() -> None:
    """Parse the command line, train what is missing, and report the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="Folder with the runs (default: %(default)s).")
    parser.add_argument("--seeds", default="1,2,3", help="Seeds of the students (default: %(default)s).")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    document = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))
    run = options.runs / document["name"]
    folders = train_students(document, options.runs, run, seeds)
    losses = {place: measure(run, document, folder) for place, folder in folders.items()}
    settings = {"student": STUDENT, "fine_tuning": FINE_TUNING, "seeds": seeds, "beam": SEARCH.beam}
    report_figures("qat", figures_of(losses, seeds), settings=settings, command="python benchmarks/bench_qat.py")


def train_students(
    document: dict[str, Any], runs: Path, run: Path, seeds: Sequence[int]
) -> dict[tuple[str, int], Path]:
    """Train the students that are missing, and return the run of each system and seed."""
    base = document["students"][STUDENT]
    students: dict[str, Any] = {STUDENT: {**base, "seeds": list(seeds)}}
    folders = {("plain", seed): run / "students" / STUDENT / f"seed_{seed}" for seed in seeds}
    for seed in seeds:
        for system in ("tuned", "int8"):
            name = f"third_{system}_{seed}"
            train = {**base["train"], **FINE_TUNING, "init_from": str(folders["plain", seed] / "auto")}
            if system == "int8":
                train["quantization_aware"] = "int8"
            students[name] = {**base, "seeds": [seed], "train": train}
            folders[system, seed] = run / "students" / name / f"seed_{seed}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "qat.yaml"
        path.write_text(yaml.safe_dump({**document, "students": students}), encoding="utf-8")
        subprocess.run([str(KDMT), "run", str(path), "--runs", str(runs), "--to", "student"], check=True)
    return folders


def measure(run: Path, document: dict[str, Any], folder: Path) -> dict[str, Result]:
    """Return the quality of a trained student in float32 and in int8."""
    codec, prepared = TextCodec.load(run / "prepare"), run / "prepare"
    checkpoint = resolve_checkpoint(folder / "auto")
    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch) / "engine"
        export_checkpoint(checkpoint, exported)
        return {
            kind: quality(CTranslate2Engine(exported, compute_type=kind), codec, prepared, document)
            for kind in ("float32", "int8")
        }


def quality(engine: CTranslate2Engine, codec: TextCodec, prepared: Path, document: dict[str, Any]) -> Result:
    """Translate the test sets, and score their references."""
    log_probs: list[np.ndarray] = []
    scores = []
    for test_set in document["prepare"]["test"]:
        source, target = (read_lines(prepared / f"{test_set}.{document[f'{side}_lang']}") for side in SIDES)
        sources = codec.encode_source(source)
        log_probs += engine.score_pairs(sources, codec.encode_target(target))
        best = [nbest[0].tokens for nbest in engine.decode(sources, SEARCH)]
        tokens = np.array([token for hypothesis in best for token in hypothesis])
        words = codec.decode_targets(tokens, np.array([len(hypothesis) for hypothesis in best], dtype=np.int32))
        scores.append(bleu(words, target, tokenize="none").value)
    return Result(-float(np.concatenate(log_probs).mean()), mean(scores))


def figures_of(losses: dict[tuple[str, int], dict[str, Result]], seeds: Sequence[int]) -> list[Figure]:
    """Return the losses of each system, as means over the seeds and for each seed."""
    figures = []
    for system in SYSTEMS:
        of_seeds = [losses[system, seed] for seed in seeds]
        values = {
            f"qat_nll_loss_{system}": ([each["int8"].nll - each["float32"].nll for each in of_seeds], "nats"),
            f"qat_bleu_loss_{system}": ([each["float32"].bleu - each["int8"].bleu for each in of_seeds], "BLEU"),
            f"qat_int8_bleu_{system}": ([each["int8"].bleu for each in of_seeds], "BLEU"),
        }
        for name, (found, unit) in values.items():
            figures.append(Figure(name, mean(found), unit))
            figures += [Figure(f"{name}_seed{seed}", value, unit) for seed, value in zip(seeds, found, strict=True)]
    return figures


if __name__ == "__main__":
    main()
