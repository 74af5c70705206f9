"""Quality and latency of simultaneous translation on Multi30k, on raw and on distilled text.

    make bench-simultaneous      (python benchmarks/bench_simultaneous.py [--seeds 2] [--runs runs])

Every stage of `pipelines/simultaneous-multi30k.yaml` that is not up to date is run. An interrupted benchmark continues
where it stopped. The corpus is downloaded, or read from the folder that KDMT_MIRROR names.

<system>_<way>_bleu               BLEU on the first test set, mean over the seeds
<system>_<way>_al, ..._laal,      latency: average lagging, its length-adaptive and its differentiable variant, in
..._ap, ..._dal                   source words, and average proportion (`kdmt.score.lagging`)
<system>_<way>_bleu_sd            standard deviation over the seeds, if there are several

`<system>` is a student of the pipeline or `teacher`; `<way>` is `wait<k>` for the wait-k policy, `chunk` for students
that translate in chunks, and `beam<n>` for whole sentences, which have no latency. The results file has the values of
every seed. `make docs-images` draws quality against latency.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from figures import REPOSITORY, RESULTS, Figure, report_figures

from kdmt.config import load_pipeline

PIPELINE = REPOSITORY / "pipelines" / "simultaneous-multi30k.yaml"
UNITS = {"bleu": "BLEU", "al": "words", "laal": "words", "ap": "ratio", "dal": "words"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, default=2, metavar="N", help="Number of seeds of each student (default: %(default)s)."
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="Folder with the runs of the pipelines (default: %(default)s)."
    )
    parser.add_argument(
        "--pipeline",
        type=Path,
        default=PIPELINE,
        help="Pipeline file, for a trial with other data (default: Multi30k).",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="Folder of simultaneous.json (default: benchmarks/results)."
    )
    options = parser.parse_args()
    config = load_pipeline(options.pipeline)
    seeds = list(range(1, options.seeds + 1))
    train_and_score(options.pipeline, list(config.students), seeds, options.runs)
    rows = json.loads((options.runs / config.name / "scores.json").read_text(encoding="utf-8"))
    test_set = next(iter(config.prepare.test_sets))
    values = values_of([row for row in rows if row.get("test_set") == test_set])
    settings = {"seeds": seeds, "pipeline": options.pipeline.name, "test_set": test_set, "per_seed": values}
    is_default = (options.seeds, options.pipeline) == (2, PIPELINE)
    command = (
        "make bench-simultaneous" if is_default else f"python benchmarks/bench_simultaneous.py --seeds {options.seeds}"
    )
    report_figures(
        "simultaneous", list(figures_of(values)), settings=settings, command=command, results_dir=options.results
    )


def train_and_score(pipeline: Path, students: Sequence[str], seeds: Sequence[int], runs: Path) -> None:
    """Run the stages that are not up to date, up to the scores."""
    flags = [flag for name in students for flag in ("--set", f"students.{name}.seeds={list(seeds)}")]
    command = [sys.executable, "-m", "kdmt", "run", str(pipeline), "--runs", str(runs), *flags]
    subprocess.run(command, check=True)


def way_of(row: Mapping[str, Any]) -> str:
    """Return the name of the way of decoding of a row of scores.json."""
    if row.get("wait_k") is not None:
        return f"wait{row['wait_k']}"
    return "chunk" if row.get("latency") else f"beam{row['beam']}" if row["iterations"] is None else "whole"


def values_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """Return the values of every seed: system and way of decoding -> metric -> seed -> value."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        own = found.setdefault(f"{row['system']}_{way_of(row)}", {})
        for metric, value in {"bleu": row["bleu"], **(row.get("latency") or {})}.items():
            own.setdefault(metric, {})[row["seed"]] = value
    return found


def figures_of(values: Mapping[str, Mapping[str, Mapping[int, float]]]) -> Iterator[Figure]:
    """Yield the means over the seeds, and the standard deviations of BLEU."""
    for name, metrics in values.items():
        for metric, by_seed in metrics.items():
            yield Figure(f"{name}_{metric}", fmean(by_seed.values()), UNITS[metric])
            if metric == "bleu" and len(by_seed) > 1:
                yield Figure(f"{name}_bleu_sd", stdev(by_seed.values()), UNITS[metric])


if __name__ == "__main__":
    main()
