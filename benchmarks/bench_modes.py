"""Right translations in languages of known modes: students of five families on raw and on distilled text, five seeds.

    make bench-modes      (python benchmarks/bench_modes.py [--seeds 5] [--runs runs])

Every stage of `pipelines/modes-two.yaml` and `pipelines/modes-three.yaml` that is not up to date is run. An interrupted
benchmark continues where it stopped. The two pipelines can also be run at the same time beforehand:

    kdmt run pipelines/modes-two.yaml & kdmt run pipelines/modes-three.yaml & wait; make bench-modes

Each translation of the test set is valid (a right translation), mixed (each word is right in some dialect, but not all
in the same one) or wrong: see `kdmt.toy.modes`. `<language>` is `two_mode` or `three_mode`.

<language>_<family>_<raw|distilled>_valid      percentage of the test set, mean over the seeds; `_valid_sd` is the
                                               standard deviation. cmlm: with the maximum number of iterations, the
                                               others are <language>_cmlm_<raw|distilled>_iter<n>_valid
<language>_<family>_<raw|distilled>_mixed      the same for mixed translations
<language>_teacher_valid, ..._mixed            the teacher, decoded greedily
<language>_distilled_text_valid                percentage of the training targets that the teacher wrote
<language>_distilled_text_reference            percentage of these targets that equal the reference: 50 or 33 for a
                                               teacher that has not memorised which dialect a reference has
<language>_sampling_valid                      expected percentage if each position is sampled independently, for
                                               sentences with the lengths of the test set
three_mode_argmax_valid                        the same if each position takes its most probable word
three_mode_most_probable_words_valid           the most probable words of the sentences of the test set

The results file has the percentage of every seed, the share of each dialect in the text that the teacher wrote, and the
validation loss of each system by update, which shows whether training has converged.
`make docs-images` writes the table and the chart of the documentation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from figures import REPOSITORY, Figure, report_figures

from kdmt.corpus.lines import read_lines
from kdmt.toy.mode_files import SIDES
from kdmt.toy.modes import (
    LANGUAGES,
    VERDICTS,
    ModeLanguage,
    argmax_validity,
    classify,
    most_probable_words,
    sampling_validity,
    translations,
)

FAMILIES = ("ar", "nat", "ctc", "dag", "cmlm")
TEXTS = ("raw", "distilled")
SRC, TGT = SIDES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="Number of seeds of each student (default: %(default)s)."
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="Folder with the runs of the pipelines (default: %(default)s)."
    )
    options = parser.parse_args()
    seeds = list(range(1, options.seeds + 1))
    figures: list[Figure] = []
    settings: dict[str, Any] = {"seeds": seeds, "pipelines": []}
    for name, language in LANGUAGES.items():
        pipeline = f"pipelines/modes-{name}.yaml"
        train_and_translate(pipeline, seeds, options.runs)
        run = Run(options.runs / f"modes-{name}", language)
        settings["pipelines"].append(pipeline)
        settings[f"{name}_mode"] = {
            "per_seed": run.percentages(),
            "teacher_dialects": run.dialects_of_teacher(),
            "validation_loss": run.validation_losses(seeds),
        }
        figures += [*figures_of(f"{name}_mode", run), *expectations(f"{name}_mode", run)]
    report_figures("modes", figures, settings=settings, command=command_of(options.seeds))


def command_of(num_seeds: int) -> str:
    """Return the command that repeats the benchmark."""
    return "make bench-modes" if num_seeds == 5 else f"python benchmarks/bench_modes.py --seeds {num_seeds}"


def train_and_translate(pipeline: str, seeds: Sequence[int], runs: Path) -> None:
    """Run the stages that are not up to date, up to the translations of the test set by every student."""
    overrides = [f"students.{family}_{text}.seeds={list(seeds)}" for family in FAMILIES for text in TEXTS]
    flags = [flag for override in overrides for flag in ("--set", override)]
    command = [sys.executable, "-m", "kdmt", "run", str(REPOSITORY / pipeline), "--runs", str(runs), *flags]
    subprocess.run(command, check=True)


# ----------------------------------------------------------------------------------------------------- percentages


@dataclass(frozen=True)
class Run:
    """The folder of a pipeline that has been run, and its language."""

    folder: Path
    language: ModeLanguage

    def sources(self, split: str) -> list[str]:
        """Return the source sentences of a split."""
        return read_lines(self.folder / "prepare" / f"{split}.{SRC}")

    def percentages(self) -> dict[str, dict[str, dict[int, float]]]:
        """Return the percentages of valid, mixed and wrong translations.

        Returns:
            System (for `cmlm` with the number of iterations, as in `cmlm_raw_iter4`) -> verdict -> seed -> percentage.
        """
        found: dict[str, dict[str, dict[int, float]]] = {}
        sources = self.sources("test")
        for row in json.loads((self.folder / "scores.json").read_text(encoding="utf-8")):
            outputs = read_lines(self.folder / "score" / file_of(row))
            verdicts = verdict_percentages(self.language, sources, outputs)
            for verdict, value in verdicts.items():
                found.setdefault(name_of(row), {}).setdefault(verdict, {})[row["seed"]] = value
        return found

    def distilled(self) -> tuple[list[str], list[str]]:
        """Return the sources of the training set that the teacher has translated, and its translations."""
        folder = self.folder / "distill"
        return read_lines(folder / f"distilled.{SRC}"), read_lines(folder / f"distilled.{TGT}")

    def equal_to_references(self) -> float:
        """Return the percentage of the teacher's translations of the training set that equal the reference."""
        sources, targets = self.distilled()
        references = dict(zip(self.sources("train"), read_lines(self.folder / "prepare" / f"train.{TGT}"), strict=True))
        return 100 * fmean(references[source] == target for source, target in zip(sources, targets, strict=True))

    def dialects_of_teacher(self) -> dict[str, float]:
        """Return the percentage of the teacher's translations of the training set that is in each dialect."""
        sources, targets = self.distilled()
        counts = Counter(dialects_of(self.language, *pair) for pair in zip(sources, targets, strict=True))
        return {name: 100 * count / len(sources) for name, count in sorted(counts.items())}

    def validation_losses(self, seeds: Sequence[int]) -> dict[str, dict[int, float]]:
        """Return the validation loss of the teacher and of the students, by system and update: means over the seeds."""
        runs = {"teacher": [self.folder / "teacher"]}
        for system in (f"{family}_{text}" for family in FAMILIES for text in TEXTS):
            runs[system] = [self.folder / "students" / system / f"seed_{seed}" for seed in seeds]
        return {system: mean_losses([losses_by_update(folder) for folder in each]) for system, each in runs.items()}


def losses_by_update(run: Path) -> dict[int, float]:
    """Return the validation losses of a training run."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {record["update"]: record["loss"] for record in records if record["kind"] == "valid"}


def mean_losses(runs: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return the mean over the runs for each update at which all of them were validated."""
    updates = sorted(set.intersection(*(set(run) for run in runs)))
    return {update: round(fmean(run[update] for run in runs), 4) for update in updates}


def file_of(row: Mapping[str, Any]) -> str:
    """Return the name of the file with the translations of a row of scores.json."""
    way = f"beam{row['beam']}" if row["iterations"] is None else f"iter{row['iterations']}"
    return f"{row['system']}.seed_{row['seed']}.{row['test_set']}.{way}.{TGT}"


def name_of(row: Mapping[str, Any]) -> str:
    """Return the name of a row's figures, with the number of iterations for students that refine their output."""
    refines = row["system"].startswith("cmlm")
    return f"{row['system']}_iter{row['iterations']}" if refines else str(row["system"])


def verdict_percentages(language: ModeLanguage, sources: Sequence[str], outputs: Sequence[str]) -> dict[str, float]:
    """Return the percentage of each verdict on the outputs."""
    counts = Counter(classify(language, *pair) for pair in zip(sources, outputs, strict=True))
    return {verdict: 100 * counts[verdict] / len(sources) for verdict in VERDICTS}


def dialects_of(language: ModeLanguage, source: str, target: str) -> str:
    """Return the letters of the dialects in which a target is right; `none` for a target that is not right."""
    right = zip(language.dialects, translations(language, source), strict=True)
    return "".join(letter for letter, translation in right if translation == target) or "none"


# --------------------------------------------------------------------------------------------------------- figures


def figures_of(prefix: str, run: Run) -> Iterator[Figure]:
    """Yield the mean and the standard deviation over the seeds for each system."""
    percentages = run.percentages()
    for system, values in percentages.items():
        for verdict in ("valid", "mixed"):
            yield from mean_and_deviation(f"{prefix}_{system}_{verdict}", list(values[verdict].values()))
    for text in TEXTS:  # without a number of iterations: the maximum
        most = max((system for system in percentages if system.startswith(f"cmlm_{text}")), key=iterations_of)
        for verdict in ("valid", "mixed"):
            yield from mean_and_deviation(f"{prefix}_cmlm_{text}_{verdict}", list(percentages[most][verdict].values()))
    distilled = verdict_percentages(run.language, *run.distilled())
    yield Figure(f"{prefix}_distilled_text_valid", distilled["valid"], "%")
    yield Figure(f"{prefix}_distilled_text_reference", run.equal_to_references(), "%")


def iterations_of(system: str) -> int:
    """Return the number of iterations in a name such as `cmlm_raw_iter10`."""
    return int(system.rpartition("_iter")[2])


def mean_and_deviation(name: str, values: Sequence[float]) -> Iterator[Figure]:
    yield Figure(name, fmean(values), "%")
    if len(values) > 1:
        yield Figure(f"{name}_sd", stdev(values), "%")


def expectations(prefix: str, run: Run) -> Iterator[Figure]:
    """Yield what decoders with independent positions are expected to reach on the sentences of the test set."""
    language, sources = run.language, run.sources("test")
    lengths = [len(source.split()) for source in sources]
    sampled = fmean(float(sampling_validity(language, length)) for length in lengths)
    yield Figure(f"{prefix}_sampling_valid", 100 * sampled, "%")
    if language.name == "three":
        yield Figure(f"{prefix}_argmax_valid", 100 * fmean(float(argmax_validity(length)) for length in lengths), "%")
        words = [most_probable_words(language, source) for source in sources]
        yield Figure(f"{prefix}_most_probable_words_valid", verdict_percentages(language, sources, words)["valid"], "%")


if __name__ == "__main__":
    main()
