"""The records in scores.json and significance.json, written and read.

A row of scores.json has its scores as a mapping from metric to value, signature, direction and range. For readers of
earlier versions it has each value and signature under a key of its own too (`bleu`, `bleu_signature`, `bleu_second`,
`bleu_second_signature`, `chrf`, ...), and files that have only those are read. The same goes for the p-values in
significance.json (`bleu_p_value`, `bleu_signature`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kdmt.config import read_record
from kdmt.errors import UserError
from kdmt.files import read_json, write_json
from kdmt.score.metrics import METRICS, MetricScore

Json = object  # a value of a JSON file that was not checked yet


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report."""

    scores: Path
    significance: Path
    page: Path

    @classmethod
    def below(cls, folder: Path) -> ReportFiles:
        """Return the files of the report in the folder of a pipeline."""
        return cls(folder / "scores.json", folder / "significance.json", folder / "report.html")

    def all(self) -> list[Path]:
        return [self.scores, self.significance, self.page]


@dataclass(frozen=True)
class ScoreRow:
    """One system on one test set with one seed and one way of decoding: an entry of scores.json."""

    system: str
    test_set: str
    seed: int
    engine: str  # that decoded: `pytorch`, ...
    beam: int
    compute_type: str  # `float32`, ...
    threads: int
    scores: dict[str, MetricScore]  # by metric
    parameters: int
    sentences_per_second_batch1: float
    sentences_per_second_max: float
    checkpoint_sha256: str
    # of tokenised text where `scores` are of finished text, and the other way round
    second_scores: dict[str, MetricScore] = field(default_factory=dict)
    iterations: int | None = None  # at most, of a non-autoregressive model
    steps: float | None = None  # decoder passes, mean over the sentences


@dataclass(frozen=True)
class PValue:
    """A p-value with the signature of its test."""

    value: float
    signature: str  # with the number of samples and their seed


@dataclass(frozen=True)
class Comparison:
    """A significance test of one system against a baseline: an entry of significance.json."""

    test_set: str
    system: str
    seed: int
    engine: str
    beam: int
    compute_type: str
    baseline: str  # a system that was decoded in the same way
    p_values: dict[str, PValue]  # by metric
    iterations: int | None = None


@dataclass(frozen=True)
class Missing:
    """A student of the pipeline that was never trained: an entry of scores.json without scores."""

    system: str
    seed: int
    missing: str = "never trained"  # why


def write_scores(path: Path, rows: Sequence[ScoreRow], missing: Sequence[Missing] = ()) -> None:
    """Write scores.json: a list with an object for each row, then one with the key `missing` for each other system."""
    write_json(path, [*map(_row_values, rows), *map(asdict, missing)], indent=2)


def read_scores(path: Path) -> tuple[list[ScoreRow], list[Missing]]:
    """Return the rows of scores.json and the systems that have none.

    Raises:
        UserError: the file is missing or damaged.
    """
    entries = _entries(path)
    missing = [entry for entry in entries if _is_missing(entry)]
    rows = [_with_scores(entry) for entry in entries if not _is_missing(entry)]
    return read_record(list[ScoreRow], rows, str(path)), read_record(list[Missing], missing, str(path))


def _is_missing(entry: Json) -> bool:
    return isinstance(entry, dict) and "missing" in entry


def write_comparisons(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write significance.json: a list with an object for each comparison."""
    write_json(path, list(map(_comparison_values, comparisons)), indent=2)


def read_comparisons(path: Path) -> list[Comparison]:
    """Return the entries of significance.json.

    Raises:
        UserError: the file is missing or damaged.
    """
    values = [_with_p_values(entry) for entry in _entries(path)]
    return read_record(list[Comparison], values, str(path))


# ------------------------------------------------------------------------------------- keys of earlier versions


def _row_values(row: ScoreRow) -> dict[str, Json]:
    flat: dict[str, Json] = {}
    for name, score in row.scores.items():
        flat |= {name: score.value, f"{name}_signature": score.signature}
        if name in METRICS and METRICS[name].depends_on_tokens:
            second = row.second_scores.get(name)
            flat |= {f"{name}_second": second and second.value, f"{name}_second_signature": second and second.signature}
    return {**asdict(row), **flat}


def _with_scores(entry: Json) -> Json:
    """Return a row of an earlier version as one of this version."""
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
    return {**asdict(comparison), **flat}


def _with_p_values(entry: Json) -> Json:
    """Return a comparison of an earlier version as one of this version."""
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
