"""The scoreboard: run the experiments of claims of the literature, and report whether each claim holds.

    make science                     every claim, then the tables of the documentation
    make science CLAIM="S1 S4"       some claims
    make results                     the tables of the documentation, without an experiment

Claims, their sources, their expected signs and smallest interesting sizes are in `benchmarks/science/claims/`. Stages
and students that are up to date in `runs/` are not trained again, and an interrupted training continues. Results are
written to `benchmarks/results/science/`, a file for each claim.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from figures import REPOSITORY, RESULTS, Figure, write_figures
from science.bootstrap import Interval, System, contrast_interval
from science.claims import Claim, Experiment, Measure, load_claims
from science.corpora import write_corpora
from science.measurements import METRICS, Metric, Term, is_scored, measure

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
SCIENCE_RESULTS = RESULTS / "science"


def main() -> None:
    """Parse the command line, run the experiments of each claim, and report its figures."""
    claims = load_claims()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--claim", nargs="*", choices=list(claims), default=[], metavar="ID", help="Claims to test (default: all)."
    )
    parser.add_argument(
        "--measure-only", action="store_true", help="Whether to measure what has been scored, without training."
    )
    options = parser.parse_args()
    if not options.measure_only:
        write_corpora()
    try:
        for claim in [claims[name] for name in options.claim] or claims.values():
            test(claim, train=not options.measure_only)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # kdmt has printed the reason


def test(claim: Claim, *, train: bool) -> None:
    """Run the experiments of a claim, unless they are only to be measured, and report its figures."""
    print(f"{claim.id}: {claim.title}", flush=True)
    for name, experiment in claim.experiments.items() if train else ():
        run_experiment(experiment, systems_of(claim, name))
    report(claim, {name: [Path("runs") / run for run in runs_of(each)] for name, each in claim.experiments.items()})


def runs_of(experiment: Experiment) -> list[str]:
    """Return the names of an experiment's runs: the pipeline's, with a suffix for each seed of the teacher."""
    name = str(experiment.set.get("name") or _pipeline_of(experiment)["name"])
    return [f"{name}-teacher{seed}" for seed in experiment.teacher_seeds] or [name]


def _pipeline_of(experiment: Experiment) -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load((REPOSITORY / experiment.pipeline).read_text(encoding="utf-8"))
    return loaded


def systems_of(claim: Claim, experiment: str) -> list[str]:
    """Return the systems of an experiment that the measures of a claim compare, in the order of the claim."""
    terms = [Term.parse(text) for found in claim.measures.values() for text in found.contrast]
    return list(dict.fromkeys(term.system for term in terms if term.experiment == experiment))


def run_experiment(experiment: Experiment, systems: Sequence[str]) -> None:
    """Train the systems of an experiment, with what they depend on, and score them."""
    for index, name in enumerate(runs_of(experiment)):
        copy_stages(experiment, Path("runs") / name)
        settings = dict(experiment.set) | {"name": name}
        if experiment.teacher_seeds:
            settings["teacher.seed"] = experiment.teacher_seeds[index]
        flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={json.dumps(value)}")]
        for system in ("teacher", *systems):  # the score stage needs the teacher
            _kdmt("run", experiment.pipeline, *_up_to(system), *flags)
        if any(map(is_scored, systems)):
            _kdmt("score", experiment.pipeline, *flags)


def copy_stages(experiment: Experiment, run: Path) -> None:
    """Copy the folders of another run that an experiment shares, unless this run has them.

    Stages of the run are compared with their records as always: one with other settings is made again.
    """
    for name in experiment.copy_folders:
        made = run.parent / str(experiment.copy_from) / name
        if (made / "manifest.json").is_file() and not (run / name).exists():
            scratch = run / f"{name}.copying"
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.copytree(made, scratch, symlinks=True)
            scratch.rename(run / name)


def _up_to(system: str) -> list[str]:
    """Return the flags of `kdmt run` for the stages that a system needs."""
    if system == "teacher":
        return ["--to", "teacher"]
    if not is_scored(system):
        return ["--to", "distill"]
    return ["--to", "student", "--student", system]


def _kdmt(*arguments: str) -> None:
    subprocess.run([str(KDMT), *arguments], check=True)


def report(claim: Claim, runs: Mapping[str, Sequence[Path]]) -> None:
    """Measure the contrasts of a claim, write its results, and print its figures."""
    results, figures, scores = [], [], {}
    for name, measured in claim.measures.items():
        metric = METRICS[measured.metric]
        systems = {}
        for text in measured.contrast:
            term = Term.parse(text)
            systems[text] = measure(term, measured.metric, runs[term.experiment])
            scores[f"{text} {measured.metric}"] = systems[text].scores.tolist()
        found = contrast_interval(systems, measured.contrast)
        bounds = {"": found.estimate} | ({} if found.bounds is None else {"_low": found.low, "_high": found.high})
        figures += [Figure(f"{claim.id}_{name}{end}".lower(), bound, metric.unit) for end, bound in bounds.items()]
        results.append({"name": name, **measured.model_dump(), **_outcome(measured, metric, systems, found)})
        interval = "" if found.bounds is None else f" [{found.low:.2f}, {found.high:.2f}]"
        print(f"  {name}: {found.estimate:.2f}{interval} {metric.unit}: {measured.verdict(found)}")
    write_figures(
        claim.id.lower(),
        figures,
        settings={"claim": claim.model_dump(), "measures": results, "scores": scores},
        command=f"make science CLAIM={claim.id}",
        results_dir=SCIENCE_RESULTS,
    )
    for figure in figures:
        print(figure, flush=True)


def _outcome(measured: Measure, metric: Metric, systems: Mapping[str, System], found: Interval) -> dict[str, object]:
    """Return the outcome of a measure for the results file."""
    return {
        "unit": metric.unit,
        "signature": metric.signature,
        "estimate": found.estimate,
        "interval": found.bounds,
        "replicates": found.replicates,
        "confidence": found.confidence,
        "num_sentences": max(system.statistics_SNK.shape[1] for system in systems.values()),
        "verdict": measured.verdict(found),
    }


if __name__ == "__main__":
    main()
