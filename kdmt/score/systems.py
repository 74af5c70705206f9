"""Systems, ways of decoding, and comparisons between systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.choices import CheckpointName
from kdmt.models.checkpoint_choice import AUTO, read_choice, updates_of
from kdmt.models.checkpoint_folder import resolve_name
from kdmt.score.score_files import Comparison, PValue, ScoreRow, TakenCheckpoint
from kdmt.score.significance import SEED, bootstrap_means, paired_bootstrap
from kdmt.score.test_sets import TestSet


@dataclass(frozen=True)
class System:
    """Trained model of the pipeline."""

    name: str
    seed: int
    run: Path


@dataclass(frozen=True)
class Way:
    """Way of decoding: with a beam size, with a maximum number of iterations, or greedy with the wait-k policy."""

    beam: int = 1
    iterations: int | None = None
    wait_k: int | None = None

    @property
    def name(self) -> str:
        if self.wait_k is not None:
            return f"wait{self.wait_k}"
        return f"beam{self.beam}" if self.iterations is None else f"iter{self.iterations}"


@dataclass(frozen=True)
class SystemRun:
    """Hypotheses of a system on a test set with one way of decoding, in the form of text that is scored first."""

    system: System
    test_set: str
    way: Way
    engine: str
    compute_type: str
    hypotheses: list[str]
    finished: Sequence[str] = ()  # the same as detokenised text, for external scorers
    export: str = ""  # name in `score.engines` of an exported model

    @property
    def file(self) -> str:
        """Name of the translations, without the language."""
        return file_name(self.system, self.test_set, self.way, self.export)


@dataclass(frozen=True)
class SegmentScores:
    """Scores of all runs by an external scorer.

    Attributes:
        signature: signature of the scorer.
        of_run: file of a run -> score of each segment.
    """

    signature: str
    of_run: dict[str, NDArray[np.float64]]


def file_name(system: System, test_set: str, way: Way, export: str = "") -> str:
    """Return the name of a system's translations of a test set, without the language.

    Args:
        export: name in `score.engines` of an exported model; empty for the checkpoint.
    """
    name = f"{system.name}.seed_{system.seed}.{test_set}.{way.name}"
    return f"{name}.{export.replace(':', '-')}" if export else name


def translations_name(row: ScoreRow) -> str:
    """Return the name of the translations that a row of scores.json scores, without the language."""
    export = row.deployment.engine if row.deployment is not None and row.deployment.is_exported else ""
    return file_name(
        System(row.system, row.seed, Path()), row.test_set, Way(row.beam, row.iterations, row.wait_k), export
    )


def taken_checkpoint(run: Path, checkpoint: CheckpointName) -> TakenCheckpoint:
    """Return the checkpoint of a run that a setting selects, and why if the setting is `auto`."""
    name = resolve_name(run, checkpoint)
    updates = updates_of(run, name)
    choice = read_choice(run) if checkpoint == AUTO else None
    if choice is None or choice.checkpoint != name:
        return TakenCheckpoint(name, updates)
    return TakenCheckpoint(
        name=name,
        updates=updates,
        of=choice.of,
        metric=choice.metric,
        signature=choice.signature,
        candidates={each: candidate.score for each, candidate in choice.candidates.items()},
    )


def compare_runs(
    runs: Sequence[SystemRun],
    test_sets: Mapping[str, TestSet],
    *,
    baseline: str,
    samples: int,
    segments: Mapping[str, SegmentScores] | None = None,
) -> list[Comparison]:
    """Compare every run with a run of the baseline by paired bootstrap resampling.

    A run is compared with the baseline's run on the same test set with the same way of decoding, or with the baseline's
    first run on the test set if none has this way of decoding. Of several seeds, the same seed is used, or the first.

    Args:
        runs: runs of all systems, including the baseline.
        test_sets: mapping from name to test set.
        baseline: name of a system.
        samples: number of resampled test sets.
        segments: segment scores of each external scorer.
    """
    comparisons = []
    for run in runs:
        if run.system.name == baseline:
            continue
        bases = [base for base in runs if (base.system.name, base.test_set) == (baseline, run.test_set)]
        alike = [base for base in bases if base.way == run.way] or bases[:1]
        base = next((base for base in alike if base.system.seed == run.system.seed), alike[0])
        comparisons.append(_compare(base, run, test_sets[run.test_set], samples, segments or {}))
    return comparisons


def _compare(
    base: SystemRun, run: SystemRun, test_set: TestSet, samples: int, segments: Mapping[str, SegmentScores]
) -> Comparison:
    found = paired_bootstrap(
        {base.system.name: base.hypotheses, run.system.name: run.hypotheses},
        test_set.first.references,
        further=test_set.first.further,
        baseline=base.system.name,
        samples=samples,
        tokenize=test_set.first.tokenize,
        lowercase=test_set.first.lowercase,
        metrics=test_set.metrics,
        spbleu_model=test_set.first.spbleu_model,
    )
    p_values = {}
    for metric, estimates in found.estimates.items():
        p_value = estimates[run.system.name].p_value
        assert p_value is not None, "only the baseline has no p-value"
        p_values[metric] = PValue(p_value, found.signatures[metric])
    for scorer, scores in segments.items():
        p_value = bootstrap_means(scores.of_run[base.file], scores.of_run[run.file], samples=samples)
        p_values[scorer] = PValue(p_value, f"{scores.signature}|bs:{samples}|seed:{SEED}")
    return Comparison(
        test_set=run.test_set,
        system=run.system.name,
        seed=run.system.seed,
        engine=run.engine,
        beam=run.way.beam,
        iterations=run.way.iterations,
        wait_k=run.way.wait_k,
        compute_type=run.compute_type,
        baseline=base.system.name,
        p_values=p_values,
    )
