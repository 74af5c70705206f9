"""Training and validation curves from the logs of runs (`metrics.jsonl`), over the seeds of each system."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_POINTS = 300  # points of a curve; a longer one is thinned out

Points = dict[int, float]  # update -> value


@dataclass(frozen=True)
class Curve:
    """One figure of one system over its updates.

    Attributes:
        system: name of the system.
        updates: updates at which at least one seed has a value, ascending [P].
        means, lowest, highest: over the seeds that have a value [P].
        num_seeds: number of seeds.
    """

    system: str
    updates: list[int]
    means: list[float]
    lowest: list[float]
    highest: list[float]
    num_seeds: int


def read_curves(runs: Mapping[str, Sequence[Path]], kind: str, figure: str) -> list[Curve]:
    """Return a curve of each system that has values.

    Args:
        runs: system -> paths of the logs of its seeds; a log that does not exist is left out.
        kind: "train" or "valid".
        figure: name of a figure in the records of this kind.
    """
    curves = (
        join_seeds(system, [_points(path, kind, figure) for path in paths if path.is_file()])
        for system, paths in runs.items()
    )
    return [curve for curve in curves if curve.updates]


def join_seeds(system: str, seeds: Sequence[Points]) -> Curve:
    """Return the curve of a system; at each update it is that of the seeds that have a value there."""
    seeds = [points for points in seeds if points]
    updates = _thinned(sorted({update for points in seeds for update in points}))
    values = [[points[update] for points in seeds if update in points] for update in updates]
    return Curve(
        system, updates, list(map(statistics.fmean, values)), list(map(min, values)), list(map(max, values)), len(seeds)
    )


def _thinned(updates: list[int]) -> list[int]:
    """Return at most `MAX_POINTS` of the updates, evenly spread, with the first and the last."""
    if len(updates) <= MAX_POINTS:
        return updates
    step = (len(updates) - 1) / (MAX_POINTS - 1)
    return [updates[round(place * step)] for place in range(MAX_POINTS)]


def _points(path: Path, kind: str, figure: str) -> Points:
    """Return the values of a log; lines that are not records, such as a truncated last one, are skipped."""
    return {update: value for update, value in _values(path, kind, figure) if math.isfinite(value)}


def _values(path: Path, kind: str, figure: str) -> Iterator[tuple[int, float]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            record = _record(line)
            update, value = record.get("update"), record.get(figure)
            if record.get("kind") == kind and type(update) is int and isinstance(value, (int, float)):
                yield update, float(value)


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
