"""Is one system better than another, or was it this test set? Paired bootstrap resampling, and spread over seeds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kdmt.score.metrics import bleu_metric, chrf_metric

SEED = 12345  # sacreBLEU's own, so that its command line gives the same figures


@dataclass(frozen=True)
class Estimate:
    """One system's score on the test set, and what the resampled test sets say of it."""

    score: float
    mean: float  # over the resampled test sets
    half_width: float  # of the 95% confidence interval around that mean
    p_value: float | None  # see `paired_bootstrap`; 1 for equal scores, None for the baseline itself


@dataclass(frozen=True)
class PairedBootstrap:
    """What `paired_bootstrap` found. The signatures hold the number of samples and the seed."""

    baseline: str
    samples: int
    seed: int
    bleu: dict[str, Estimate]  # by system, the baseline first
    chrf: dict[str, Estimate]
    bleu_signature: str
    chrf_signature: str


def paired_bootstrap(
    systems: Mapping[str, Sequence[str]],
    references: Sequence[str],
    *,
    baseline: str,
    samples: int = 1000,
    seed: int = SEED,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> PairedBootstrap:
    """Compare each system with the baseline by paired bootstrap resampling (Koehn 2004), in one process.

    Test sets are drawn with replacement, the same sentences for both systems. With d the observed difference of the
    corpus scores and d_1 ... d_n those of the drawn test sets,

        p = (#{i : |d_i| - mean_j |d_j| > |d|} + 1) / (n + 1)

    as sacreBLEU and the script of Moses have it. It is the probability of one tail: for a two-sided test at 5% ask for
    p < 0.025; the smallest p is 1 / (n + 1). Systems with equal scores have p = 1, where the formula would say 1 /
    (n + 1) of equal statistics (no d_i differs from the mean) and about 0.4 of scores that are equal by chance.

    Args:
        systems: hypotheses of each system, line for line with the references.
        references: one reference a line.
        baseline: the system that the others are compared with.
        samples: resampled test sets.
        seed: positive; sacreBLEU takes 0 for "draw another seed each time".
        tokenize: as for `metrics.bleu`.
        lowercase: of BLEU; chrF is given without regard to case too.

    Raises:
        ValueError: an unknown baseline, a system of another length than the references, no sentence, no sample,
            or a seed of 0.
    """
    _check_systems(systems, references, baseline)
    if seed < 1 or samples < 1:
        raise ValueError(f"seed ({seed}) and samples ({samples}) must be positive")
    from sacrebleu.significance import PairedTest

    ordered = [(baseline, systems[baseline]), *((name, systems[name]) for name in systems if name != baseline)]
    metrics = {
        "BLEU": bleu_metric(tokenize=tokenize, lowercase=lowercase),
        "chrF2": chrf_metric(lowercase=lowercase),
    }
    with _sacrebleu_seed(seed):
        test = PairedTest(ordered, metrics, [references], test_type="bs", n_samples=samples, n_jobs=1)
    signatures, results = test()
    names = [name for name, _ in ordered]
    return PairedBootstrap(
        baseline=baseline,
        samples=samples,
        seed=seed,
        bleu=_estimates(names, results["BLEU"]),
        chrf=_estimates(names, results["chrF2"]),
        bleu_signature=str(signatures["BLEU"]),
        chrf_signature=str(signatures["chrF2"]),
    )


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) over seeds; the deviation of a single value is None.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("there is no value to take the mean of")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@contextmanager
def _sacrebleu_seed(seed: int) -> Iterator[None]:
    """sacreBLEU takes its seed from the environment alone, and reads it when a test is constructed."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before


def _check_systems(systems: Mapping[str, Sequence[str]], references: Sequence[str], baseline: str) -> None:
    if baseline not in systems:
        raise ValueError(f"the baseline {baseline!r} is not among the systems: {', '.join(systems)}")
    if not references:
        raise ValueError("there is no sentence to compare on")
    for name, hypotheses in systems.items():
        if len(hypotheses) != len(references):
            raise ValueError(f"{name}: {len(hypotheses)} hypotheses against {len(references)} references")


def _estimates(names: Sequence[str], results: Sequence[Any]) -> dict[str, Estimate]:
    """Take over sacreBLEU's results, the baseline's first, but for p where there is no difference to explain."""
    estimates = {}
    for name, result in zip(names, results, strict=True):
        is_equal = result.p_value is not None and result.score == results[0].score
        p_value = 1.0 if is_equal else result.p_value
        estimates[name] = Estimate(float(result.score), float(result.mean), float(result.ci), p_value)
    return estimates
