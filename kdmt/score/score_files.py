"""Records of scores.json and significance.json, and functions that write and read them.

A row of scores.json contains the scores as a mapping from metric to value, signature, direction and range. For readers
of earlier versions, each value and signature is also stored under a separate key (`bleu`, `bleu_signature`,
`bleu_second`, `bleu_second_signature`, `chrf`, ...), and files with only these keys can be read. The same applies to
the p-values in significance.json (`bleu_p_value`, `bleu_signature`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kdmt.config import read_record
from kdmt.errors import UserError
from kdmt.files import read_json, write_json
from kdmt.score.deployment import Deployment
from kdmt.score.metrics import METRICS, MetricScore

Json = object  # value from a JSON file that is not checked yet


@dataclass(frozen=True)
class ReportFiles:
    """Paths of the files of a report."""

    scores: Path
    significance: Path
    page: Path
    diagnostics: Path

    @classmethod
    def below(cls, folder: Path) -> ReportFiles:
        """Return the paths of the report in the folder of a pipeline."""
        names = ("scores.json", "significance.json", "report.html", "diagnostics.json")
        return cls(*(folder / name for name in names))

    def existing(self) -> list[Path]:
        """Return the paths of all files; the diagnostics are left out if there are none."""
        diagnostics = [self.diagnostics] if self.diagnostics.exists() else []
        return [self.scores, self.significance, self.page, *diagnostics]


@dataclass(frozen=True)
class TakenCheckpoint:
    """The checkpoint of a run that was scored, and the validation scores by which it was chosen.

    Attributes:
        name: name in the run, such as `best`.
        updates: its update, or those of the checkpoints that it is the mean of; empty if they are not recorded.
        of: the setting `train.average.of` by which `auto` is this checkpoint; None if `score.checkpoint` names it, or
            the run has no record of a choice.
        metric: validation metric of the scores.
        signature: signature of the metric.
        candidates: validation score of each candidate; None for one that was not validated.
    """

    name: str
    updates: list[int]
    of: str | None = None
    metric: str | None = None
    signature: str | None = None
    candidates: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreRow:
    """Entry of scores.json: one system on one test set with one seed and one way of decoding."""

    system: str
    test_set: str
    seed: int
    engine: str  # decoding engine: `pytorch`, ...
    beam: int
    compute_type: str  # `float32`, ...
    threads: int
    scores: dict[str, MetricScore]  # metric -> score
    parameters: int
    sentences_per_second_batch1: float
    sentences_per_second_max: float
    checkpoint_sha256: str
    # scores of tokenised text if `scores` are of finished text, and vice versa
    second_scores: dict[str, MetricScore] = field(default_factory=dict)
    iterations: int | None = None  # maximum number of iterations of a non-autoregressive model
    wait_k: int | None = None  # k of the wait-k policy; None for translation of whole sentences
    latency: dict[str, float] | None = None  # metric of `kdmt.score.lagging` -> mean, if there are words
    steps: float | None = None  # number of decoder passes, mean over the sentences
    checkpoint: TakenCheckpoint | None = None  # None in files of earlier versions
    deployment: Deployment | None = None  # None without `score.engines`
    direction: str | None = None  # of the test set, if the pipeline has several; None for one
    off_target: float | None = None  # share of translations in another language, 0 to 100; None if not measured


@dataclass(frozen=True)
class PValue:
    """p-value with the signature of its test."""

    value: float
    signature: str  # includes the number of samples and the seed


@dataclass(frozen=True)
class Comparison:
    """Entry of significance.json: a significance test of one system against a baseline."""

    test_set: str
    system: str
    seed: int
    engine: str
    beam: int
    compute_type: str
    baseline: str  # a system that was decoded in the same way
    p_values: dict[str, PValue]  # metric -> p-value
    iterations: int | None = None
    wait_k: int | None = None


@dataclass(frozen=True)
class Missing:
    """Entry of scores.json without scores.

    Attributes:
        missing: reason.
        engine: engine of `score.engines` that has no model for the student; None for a student of the pipeline that has
            no scores at all.
    """

    system: str
    seed: int
    missing: str = "never trained"
    engine: str | None = None


def write_scores(path: Path, rows: Sequence[ScoreRow], missing: Sequence[Missing] = ()) -> None:
    """Write scores.json: a list of objects, one for each row and then one with key `missing` for each other system."""
    write_json(path, [*map(_row_values, rows), *map(_missing_values, missing)], indent=2)


def read_scores(path: Path) -> tuple[list[ScoreRow], list[Missing]]:
    """Return the rows of scores.json and the systems without scores.

    Raises:
        UserError: if the file is missing or damaged.
    """
    entries = _entries(path)
    missing = [entry for entry in entries if _is_missing(entry)]
    rows = [_with_scores(entry) for entry in entries if not _is_missing(entry)]
    return read_record(list[ScoreRow], rows, str(path)), read_record(list[Missing], missing, str(path))


def _is_missing(entry: Json) -> bool:
    return isinstance(entry, dict) and "missing" in entry


def write_comparisons(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write significance.json: a list of objects, one for each comparison."""
    write_json(path, list(map(_comparison_values, comparisons)), indent=2)


def read_comparisons(path: Path) -> list[Comparison]:
    """Return the entries of significance.json.

    Raises:
        UserError: if the file is missing or damaged.
    """
    values = [_with_p_values(entry) for entry in _entries(path)]
    return read_record(list[Comparison], values, str(path))


# ------------------------------------------------------------------------------------- keys of earlier versions


def _missing_values(missing: Missing) -> dict[str, Json]:
    return {name: value for name, value in asdict(missing).items() if value is not None}


def _row_values(row: ScoreRow) -> dict[str, Json]:
    flat: dict[str, Json] = {}
    for name, score in row.scores.items():
        flat |= {name: score.value, f"{name}_signature": score.signature}
        if name in METRICS and METRICS[name].depends_on_tokens:
            second = row.second_scores.get(name)
            flat |= {f"{name}_second": second and second.value, f"{name}_second_signature": second and second.signature}
    values = _without_missing({**asdict(row), **flat}, ("wait_k", "latency"))
    if row.deployment is None:  # so that files without it are as before
        del values["deployment"]
    if row.direction is None:
        del values["direction"]
    if row.off_target is None:
        del values["off_target"]
    return values


def _without_missing(values: dict[str, Json], names: Sequence[str]) -> dict[str, Json]:
    """Return values without those of the names that are None, so that files without them are as before."""
    return {name: value for name, value in values.items() if name not in names or value is not None}


def _with_scores(entry: Json) -> Json:
    """Convert a row of an earlier version to the current version."""
    if not isinstance(entry, dict) or "scores" in entry:
        return entry
    return {**entry, "scores": _flat_scores(entry, ""), "second_scores": _flat_scores(entry, "_second")}


def _flat_scores(entry: Mapping[str, Json], ending: str) -> dict[str, Json]:
    return {
        name: {
            "value": entry[f"{name}{ending}"],
            "signature": entry.get(f"{name}{ending}_signature"),
            "higher_is_better": metric.higher_is_better,
            "range": metric.range,
        }
        for name, metric in METRICS.items()
        if entry.get(f"{name}{ending}") is not None
    }


def _comparison_values(comparison: Comparison) -> dict[str, Json]:
    flat: dict[str, Json] = {}
    for name, p_value in comparison.p_values.items():
        flat |= {f"{name}_p_value": p_value.value, f"{name}_signature": p_value.signature}
    return _without_missing({**asdict(comparison), **flat}, ("wait_k",))


def _with_p_values(entry: Json) -> Json:
    """Convert a comparison of an earlier version to the current version."""
    if not isinstance(entry, dict) or "p_values" in entry:
        return entry
    p_values = {
        name: {"value": entry[f"{name}_p_value"], "signature": entry.get(f"{name}_signature")}
        for name in METRICS
        if f"{name}_p_value" in entry
    }
    return {**entry, "p_values": p_values}


def _entries(path: Path) -> list[Json]:
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: not a list")
    return content
