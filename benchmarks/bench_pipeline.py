"""A pipeline's table as measured: every stage, several seeds, and the scores as figures.

    make bench-toy            raw against distilled on the toy corpus, five seeds, equal updates
    make bench-multi30k       teacher, raw and distilled students on Multi30k as published, two seeds

The stages go on from what `runs/` holds. The figures of a student are the mean over its seeds, and the standard
deviation where there are several; the rows of scores.json and the significance tests are kept with them whole.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sysconfig
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from figures import Figure, report_figures

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
STAGES = ("prepare", "teacher", "distill", "student", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", help="name of the benchmark and its make target")
    parser.add_argument("pipeline", type=Path, help="a pipeline's YAML file")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=C")
    options = parser.parse_args()

    flags = [flag for override in options.overrides for flag in ("--set", override)]
    for stage in STAGES:
        subprocess.run([str(KDMT), stage, str(options.pipeline), *flags], check=True)
    run = Path("runs") / options.pipeline.stem
    rows = json.loads((run / "scores.json").read_text())
    settings = {
        "pipeline": str(options.pipeline),
        "overrides": options.overrides,
        "teacher_minutes": training_minutes(run / "teacher"),
        "distill": facts(run / "distill"),
        "scores": rows,
        "significance": json.loads((run / "significance.json").read_text()),
    }
    report_figures(options.bench, score_figures(rows), settings=settings, command=f"make bench-{options.bench}")


def score_figures(rows: list[dict[str, Any]]) -> list[Figure]:
    """BLEU by system, test set and beam."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        name = f"{row['system']}_{row['test_set']}_beam{row['beam']}_bleu".lower().replace("-", "_").replace(".", "_")
        groups.setdefault(name, []).append(row["bleu"])
    figures = []
    for name, values in groups.items():
        figures.append(Figure(name, fmean(values), "BLEU"))
        if len(values) > 1:
            figures.append(Figure(f"{name}_sd", stdev(values), "BLEU"))
    return figures


def training_minutes(run: Path) -> float:
    """Time spent in updates; validation is left out."""
    minutes = 0.0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "train":
            minutes += record["seconds"] / 60
    return round(minutes, 2)


def facts(stage: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((stage / "manifest.json").read_text())
    return {key: value for key, value in manifest["facts"].items() if key != "dropped"}


if __name__ == "__main__":
    main()
