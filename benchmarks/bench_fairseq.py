"""Speed of `kdmt generate` and of training, compared with the real fairseq: same model, data, batch size, threads.

    make bench-fairseq        (python benchmarks/bench_fairseq.py [--rounds 3]; needs `make fairseq-env`)

Generation: a trained 4+4 layer, 128/256 teacher translates the test set of 2016 of Multi30k. It is the teacher of
bench_distill.py, which is trained first if it does not exist. Both commands read it as a fairseq checkpoint and have
the same flags, and they run in turns. `generate_over_fairseq` is computed from the seconds in the last lines of the
commands: fairseq counts only the search, kdmt also the writing and scoring of the translations.
`generate_command_over_fairseq` is computed from the time of the whole commands. `generate_same` is the share of
sentences with the same translation.

Training: `train_over_fairseq` is the ratio of bench_train.py for the same architecture, in target tokens per second.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench_distill import FAIRSEQ, KDMT, TEST_SET, train_teacher
from bench_train import JOBS, compare_speed, describe_job
from figures import Figure, report_figures

from kdmt.interop.fairseq.checkpoints import export_checkpoint
from kdmt.runtime import cores

ARCH = "transformer_multi30k"
FLAGS = ("--gen-subset", TEST_SET, "--beam", "5", "--max-len-a", "1.2", "--max-len-b", "10", "--cpu")
LANGS = ("--source-lang", "en", "--target-lang", "de")


@dataclass(frozen=True)
class Generated:
    """Result of one command."""

    seconds: float  # as the command reports them
    whole: float  # seconds of the whole command
    translations: dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="Number of rounds (default: %(default)s).")
    parser.add_argument(
        "--updates", type=int, default=4, help="Number of updates of each side per round (default: %(default)s)."
    )
    parser.add_argument(
        "--batch-size", type=int, default=128, help="Number of sentences per batch (default: %(default)s)."
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/bench-fairseq"), help="Working folder (default: %(default)s)."
    )
    parser.add_argument(
        "--fairseq-python",
        type=Path,
        default=FAIRSEQ / "python",
        help="Python of the environment with fairseq (default: that of `make fairseq-env`).",
    )
    options = parser.parse_args()
    if not (FAIRSEQ / "fairseq-generate").exists():
        sys.exit("bench-fairseq: run `make fairseq-env` first")
    trained = train_teacher("multi30k")
    data_bin = trained / "prepare" / "data-bin"
    checkpoint = options.workdir / "teacher.pt"
    if not checkpoint.exists():
        export_checkpoint(trained / "teacher" / "average", checkpoint)

    figures, rounds = compare_generation(checkpoint, data_bin, options)
    job = describe_job(ARCH, data_bin)
    found, training = compare_speed(ARCH, job, options)
    figures.append(Figure("train_over_fairseq", found[0].value, "ratio"))
    settings = {"flags": " ".join(FLAGS), "batch_size": options.batch_size, "generate": rounds, "train": training}
    report_figures("fairseq", figures, settings={**settings, "job": JOBS[ARCH]})


def compare_generation(
    checkpoint: Path, data_bin: Path, options: argparse.Namespace
) -> tuple[list[Figure], list[dict[str, float]]]:
    commands = {"kdmt": [str(KDMT), "generate"], "fairseq": [str(FAIRSEQ / "fairseq-generate")]}
    given = [str(data_bin), "--path", str(checkpoint), "--batch-size", str(options.batch_size), *FLAGS, *LANGS]
    rounds, same = [], 0.0
    for number in range(options.rounds):
        found = {name: generate([*commands[name], *given]) for name in list(commands)[:: 1 if number % 2 else -1]}
        ours, theirs = (found[name].translations for name in commands)
        assert ours.keys() == theirs.keys()
        same = 100 * sum(ours[index] == words for index, words in theirs.items()) / len(theirs)
        rounds.append({f"{name}_{key}": getattr(found[name], key) for name in found for key in ("seconds", "whole")})
        print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
    sentences = len(ours)
    figures = [
        Figure(
            "generate_over_fairseq", median(one["fairseq_seconds"] / one["kdmt_seconds"] for one in rounds), "ratio"
        ),
        Figure(
            "generate_command_over_fairseq", median(one["fairseq_whole"] / one["kdmt_whole"] for one in rounds), "ratio"
        ),
        Figure("generate_same", same, "%"),
        *(
            Figure(f"generate_{name}", sentences / median(one[f"{name}_seconds"] for one in rounds), "sentences/s")
            for name in commands
        ),
    ]
    return figures, rounds


def generate(command: list[str]) -> Generated:
    environment = os.environ | {"OMP_NUM_THREADS": str(cores())}
    if command[0].startswith(str(FAIRSEQ)):
        environment["PYTHONPATH"] = ""
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    whole = time.perf_counter() - started
    summary = re.search(r"Translated ([\d,]+) sentences .* in ([\d.,]+)s", done.stdout + done.stderr)
    assert summary is not None, (done.stdout + done.stderr)[-2000:]
    translations = dict(re.findall(r"^H-(\d+)\t\S+\t(.*)$", done.stdout, re.MULTILINE))
    return Generated(float(summary.group(2).replace(",", "")), whole, translations)


if __name__ == "__main__":
    main()
