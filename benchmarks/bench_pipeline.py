"""Scores of a pipeline: every stage is run, and the scores are reported as figures.

    make bench-toy                   raw and distilled students on the toy corpus, five seeds, equal updates
    make bench-multi30k              teacher, raw and distilled students on Multi30k as published, two seeds
    make bench-kd-losses-toy         every distillation objective on the toy corpus, three seeds, equal updates
    make bench-kd-losses-multi30k    word- and sequence-level distillation on Multi30k, equal updates
    make bench-nat-toy               non-autoregressive students on the toy corpus, raw and distilled
    make bench-nat-multi30k          the same on Multi30k
    make bench-science-multi30k      teacher and students on Multi30k, autoregressive and not

Stages that are up to date in `runs/` are not run again. The figures of a student are the mean over its seeds and, with
several seeds, the standard deviation. The results file also has the rows of scores.json and the significance tests. For
the toy corpus, whose correct translations are known, `..._valid` is the share of outputs that are correct. The file
also has the validation BLEU by update of every system. With `--measure-only`, only what has been trained is scored.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sysconfig
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from figures import Figure, report_figures

from kdmt.toy.grammar import is_valid

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
STAGES = ("prepare", "teacher", "distill", "knowledge", "student", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", help="Name of the benchmark, as in its make target, bench-NAME.")
    parser.add_argument("pipeline", type=Path, help="Pipeline file.")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="A.B=C",
        help="Setting to override, repeatable (default: none).",
    )
    parser.add_argument(
        "--measure-only",
        action="store_true",
        help="Whether to score only, without training (default: no).",
    )
    options = parser.parse_args()

    flags = [flag for override in options.overrides for flag in ("--set", override)]
    for stage in STAGES[-1:] if options.measure_only else STAGES:
        subprocess.run([str(KDMT), stage, str(options.pipeline), *flags], check=True)
    run = Path("runs") / options.pipeline.stem
    entries = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    rows = [entry for entry in entries if "missing" not in entry]
    settings = {
        "pipeline": str(options.pipeline),
        "overrides": options.overrides,
        "teacher_minutes": training_minutes(run / "teacher"),
        "distill": facts(run / "distill"),
        "scores": rows,
        "significance": json.loads((run / "significance.json").read_text()),
        "curves": {
            f"{row['system']}.seed_{row['seed']}": validation_curve(folder_of(run, row["system"], row["seed"]))
            for row in rows
        },
    }
    figures = summarise(rows, "bleu", [row["bleu"] for row in rows], "BLEU")
    if options.pipeline.stem.endswith("toy"):
        figures += summarise(rows, "valid", [valid_percent(run, row) for row in rows], "%")
    report_figures(options.bench, figures, settings=settings, command=f"make bench-{options.bench}")


def summarise(rows: list[dict[str, Any]], what: str, values: list[float], unit: str) -> list[Figure]:
    """Return the mean and standard deviation over the seeds for each system, test set and way of decoding."""
    groups: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        name = f"{row['system']}_{row['test_set']}_{way_of(row)}_{what}".lower()
        groups.setdefault(re.sub("[^a-z0-9]", "_", name), []).append(value)
    figures = []
    for name, group in groups.items():
        figures.append(Figure(name, fmean(group), unit))
        if len(group) > 1:
            figures.append(Figure(f"{name}_sd", stdev(group), unit))
    return figures


def way_of(row: dict[str, Any]) -> str:
    """Return how a row of scores.json was decoded, as in the file name of its translations."""
    return f"beam{row['beam']}" if row["iterations"] is None else f"iter{row['iterations']}"


def valid_percent(run: Path, row: dict[str, Any]) -> float:
    """Return the percentage of outputs of a toy system that are correct translations, even if not the reference."""
    name = f"{row['system']}.seed_{row['seed']}.{row['test_set']}.{way_of(row)}.de"
    outputs = (run / "score" / name).read_text().splitlines()
    sources = (run / "prepare" / f"{row['test_set']}.raw.en").read_text().splitlines()
    return 100 * fmean(is_valid(*pair) for pair in zip(sources, outputs, strict=True))


def training_minutes(run: Path) -> float:
    """Return the minutes spent in updates, without validation."""
    minutes = 0.0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "train":
            minutes += record["seconds"] / 60
    return round(minutes, 2)


def folder_of(run: Path, system: str, seed: int) -> Path:
    """Return the folder with the checkpoints of a system."""
    return run / "teacher" if system == "teacher" else run / "students" / system / f"seed_{seed}"


def validation_curve(folder: Path) -> dict[int, float]:
    """Return the validation BLEU of a training by update."""
    records = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {record["update"]: record["bleu"] for record in records if record["kind"] == "valid" and "bleu" in record}


def facts(stage: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((stage / "manifest.json").read_text())
    return {key: value for key, value in manifest["facts"].items() if key != "dropped"}


if __name__ == "__main__":
    main()
