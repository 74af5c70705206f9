"""Significance of a difference between systems: paired bootstrap resampling, and the spread over seeds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kdmt.score.metrics import METRICS

if TYPE_CHECKING:
    from sacrebleu.significance import Result

SEED = 12345  # sacreBLEU's own, so that its command line gives the same figures


@dataclass(frozen=True)
class Estimate:
    """The score of one system on the test set and on the resampled test sets."""

    score: float
    mean: float  # over the resampled test sets
    half_width: float  # of the 95% confidence interval around that mean
    p_value: float | None  # see `paired_bootstrap`; 1 for equal scores, None for the baseline itself


@dataclass(frozen=True)
class PairedBootstrap:
    """The result of `paired_bootstrap`."""

    baseline: str
    samples: int
    seed: int
    estimates: dict[str, dict[str, Estimate]]  # by metric, then by system with the baseline first
    signatures: dict[str, str]  # by metric, with the number of samples and the seed


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

    as in sacreBLEU and the script of Moses. It is the probability of one tail: a two-sided test at 5% needs p < 0.025;
    the smallest p is 1 / (n + 1). Systems with equal scores have p = 1, where the formula would give 1 / (n + 1) for
    equal statistics (no d_i differs from the mean) and about 0.4 for scores that are equal by chance.

    Args:
        systems: hypotheses of each system, line for line with the references.
        references: one reference a line.
        baseline: the system that the others are compared with.
        samples: resampled test sets.
        seed: positive; for sacreBLEU 0 means another seed each time.
        tokenize, lowercase: as for `Metric.score`.

    Raises:
        ValueError: an unknown baseline, a system of another length than the references, no sentence, no sample,
            or a seed of 0.
    """
    _check_systems(systems, references, baseline)
    if seed < 1 or samples < 1:
        raise ValueError(f"seed ({seed}) and samples ({samples}) must be positive")
    from sacrebleu.significance import PairedTest

    ordered = [(baseline, systems[baseline]), *((name, systems[name]) for name in systems if name != baseline)]
    made = {name: metric.make(tokenize, lowercase) for name, metric in METRICS.items()}
    with _sacrebleu_seed(seed):
        test = PairedTest(ordered, made, [references], test_type="bs", n_samples=samples, n_jobs=1)
    signatures, results = test()
    systems_in_order = [name for name, _ in ordered]
    estimates, texts = {}, {}
    for name, known in zip(made, test.metrics, strict=True):  # sacreBLEU renames them by what is computed, as chrF2
        estimates[name] = _estimates(systems_in_order, cast("list[Result]", results[known]))
        texts[name] = str(signatures[known])
    return PairedBootstrap(baseline, samples, seed, estimates, texts)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation (n - 1) over seeds; the deviation of a single value is None.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("there is no value to take the mean of")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@contextmanager
def _sacrebleu_seed(seed: int) -> Iterator[None]:
    """Set the seed of sacreBLEU, which reads it from the environment alone, when a test is constructed."""
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


def _estimates(names: Sequence[str], results: Sequence[Result]) -> dict[str, Estimate]:
    """Convert sacreBLEU's results, the baseline's first; p is 1 where there is no difference to explain."""
    estimates = {}
    for name, result in zip(names, results, strict=True):
        assert result.mean is not None, "every system is resampled"
        assert result.ci is not None, "every system is resampled"
        is_equal = result.p_value is not None and result.score == results[0].score
        p_value = 1.0 if is_equal else result.p_value
        estimates[name] = Estimate(float(result.score), float(result.mean), float(result.ci), p_value)
    return estimates
