"""Significance of differences between systems: paired bootstrap resampling, and standard deviation over seeds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kdmt.score.metrics import DEFAULT_METRICS, METRICS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sacrebleu.significance import Result

SEED = 12345  # default of sacreBLEU, so that its command line gives the same figures


@dataclass(frozen=True)
class Estimate:
    """Score of one system on the test set and on the resampled test sets."""

    score: float
    mean: float  # mean over the resampled test sets
    half_width: float  # half the width of the 95% confidence interval around the mean
    p_value: float | None  # see `paired_bootstrap`; 1 for equal scores, None for the baseline itself


@dataclass(frozen=True)
class PairedBootstrap:
    """Result of `paired_bootstrap`."""

    baseline: str
    samples: int
    seed: int
    estimates: dict[str, dict[str, Estimate]]  # metric -> system -> estimate; the baseline is first
    signatures: dict[str, str]  # metric -> signature with the number of samples and the seed


def paired_bootstrap(
    systems: Mapping[str, Sequence[str]],
    references: Sequence[str],
    *,
    baseline: str,
    further: Sequence[Sequence[str]] = (),
    samples: int = 1000,
    seed: int = SEED,
    tokenize: str = "13a",
    lowercase: bool = False,
    metrics: Sequence[str] = DEFAULT_METRICS,
    spbleu_model: str | None = None,
) -> PairedBootstrap:
    """Compare each system with the baseline by paired bootstrap resampling (Koehn 2004), in one process.

    Test sets are drawn with replacement, with the same sentences for both systems. Let d be the observed difference of
    the corpus scores and d_1 ... d_n the differences on the drawn test sets. Then

        p = (#{i : |d_i| - mean_j |d_j| > |d|} + 1) / (n + 1)

    as in sacreBLEU and the script of Moses. p is one-tailed: a two-sided test at 5% requires p < 0.025. The smallest
    possible p is 1 / (n + 1). Systems with equal scores have p = 1, where the formula would give 1 / (n + 1) for equal
    statistics (no d_i differs from the mean) and about 0.4 for scores that are equal by chance.

    Args:
        systems: hypotheses of each system; line i corresponds to reference i.
        references: one reference per line.
        further: further references.
        baseline: name of the system that the others are compared with.
        samples: number of resampled test sets.
        seed: positive integer; for sacreBLEU, 0 means a different seed each time.
        tokenize, lowercase: as for `Metric.score`.
        metrics: names in `METRICS`.
        spbleu_model: as for `Metric.score`.

    Raises:
        ValueError: if the baseline is unknown, a system differs in length from the references, there is no sentence,
            or `samples` or `seed` is not positive.
    """
    for each in (references, *further):
        _check_systems(systems, each, baseline)
    if seed < 1 or samples < 1:
        raise ValueError(f"seed ({seed}) and samples ({samples}) must be positive")
    from sacrebleu.significance import PairedTest

    ordered = [(baseline, systems[baseline]), *((name, systems[name]) for name in systems if name != baseline)]
    systems_in_order = [name for name, _ in ordered]
    estimates, texts = {}, {}
    for name in metrics:  # one at a time, because sacreBLEU has the same name for BLEU and spBLEU
        made = {name: METRICS[name].make(tokenize, lowercase, spbleu_model)}
        with _sacrebleu_seed(seed):
            test = PairedTest(ordered, made, [references, *further], test_type="bs", n_samples=samples, n_jobs=1)
        signatures, results = test()
        (known,) = test.metrics  # sacreBLEU uses other names, such as chrF2
        estimates[name] = _estimates(systems_in_order, cast("list[Result]", results[known]))
        texts[name] = str(signatures[known])
    return PairedBootstrap(baseline, samples, seed, estimates, texts)


def bootstrap_means(
    baseline_N: NDArray[np.float64], system_N: NDArray[np.float64], *, samples: int = 1000, seed: int = SEED
) -> float:
    """Return the p-value of the difference of two systems' mean segment scores by paired bootstrap resampling.

    The test and the formula are those of `paired_bootstrap`; a score of a test set is the mean of its segments.

    Args:
        baseline_N, system_N: scores of the same segments.

    Raises:
        ValueError: if the systems differ in length, there is no segment, or `samples` or `seed` is not positive.
    """
    import numpy as np

    if len(baseline_N) != len(system_N) or not len(system_N):
        raise ValueError(f"{len(system_N)} scores against {len(baseline_N)}")
    if seed < 1 or samples < 1:
        raise ValueError(f"seed ({seed}) and samples ({samples}) must be positive")
    difference_N = system_N - baseline_N
    observed = abs(float(difference_N.mean()))
    if observed == 0:
        return 1.0
    random, count = np.random.default_rng(seed), len(difference_N)
    drawn = np.array([abs(difference_N[random.integers(count, size=count)].mean()) for _ in range(samples)])
    return (int(np.count_nonzero(drawn - drawn.mean() > observed)) + 1) / (samples + 1)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation (n - 1) over seeds; the deviation of a single value is None.

    Raises:
        ValueError: if there is no value.
    """
    if not values:
        raise ValueError("there is no value to take the mean of")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@contextmanager
def _sacrebleu_seed(seed: int) -> Iterator[None]:
    """Set the seed of sacreBLEU within a context. It is read only from the environment, when a test is constructed."""
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
    """Convert sacreBLEU's results, of which the baseline's is the first. p is 1 for scores equal to the baseline's."""
    estimates = {}
    for name, result in zip(names, results, strict=True):
        assert result.mean is not None, "every system is resampled"
        assert result.ci is not None, "every system is resampled"
        is_equal = result.p_value is not None and result.score == results[0].score
        p_value = 1.0 if is_equal else result.p_value
        estimates[name] = Estimate(float(result.score), float(result.mean), float(result.ci), p_value)
    return estimates
