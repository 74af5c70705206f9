"""Averages of scores over the directions of a multilingual system."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from kdmt.config import read_record
from kdmt.config.directions import from_english, to_english
from kdmt.errors import UserError
from kdmt.files import read_json, write_json
from kdmt.languages import Direction
from kdmt.score.metrics import metric_label
from kdmt.score.row_groups import way_name
from kdmt.score.score_files import ScoreRow
from kdmt.score.text_table import draw, make_table

AVERAGES = "averages.json"  # in the folder of the score stage

Belongs = Callable[[Direction], bool]  # whether a direction belongs to a group
_Key = tuple[str, int, str, str, str | None]  # system, seed, way of decoding, test set, engine of an exported model


@dataclass(frozen=True)
class Resources:
    """Sizes of the trained directions, and the limits of the resource classes.

    Attributes:
        pairs: number of training pairs of each trained direction, by its name; empty for no averages by class.
        low_below: a direction with fewer pairs is low-resource.
        high_from: a direction with as many pairs, or more, is high-resource; the others are medium-resource.
    """

    pairs: Mapping[str, int] = field(default_factory=dict)
    low_below: int = 100_000
    high_from: int = 1_000_000

    def class_of(self, direction: Direction) -> str | None:
        """Return `high`, `medium` or `low`; None for a direction without training pairs."""
        pairs = self.pairs.get(str(direction))
        if pairs is None:
            return None
        return "low" if pairs < self.low_below else "medium" if pairs < self.high_from else "high"


ALL_TRAINED = "all"  # group of all trained directions


@dataclass(frozen=True)
class AverageRow:
    """Means of the scores of one system over directions.

    Attributes:
        test_set: name of the test set in the settings.
        group: `all` for the trained directions; among them `to English`, `from English`, `high-resource`,
            `medium-resource` and `low-resource`; `zero-shot` for the others.
        directions: the directions.
        scores: metric -> mean of the scores of the directions.
        off_target: mean of the off-target rates, 0 to 100; None if they are not measured.
        engine: name in `score.engines` of an exported model; None for the checkpoint.
    """

    system: str
    seed: int
    test_set: str
    group: str
    directions: list[str]
    way: str
    scores: dict[str, float]
    off_target: float | None = None
    engine: str | None = None


def average_rows(
    rows: Sequence[ScoreRow],
    tests: Mapping[str, tuple[str, Direction]],
    zero_shot: Sequence[Direction],
    resources: Resources = Resources(),
) -> list[AverageRow]:
    """Return the means of the scores over groups of directions.

    Args:
        rows: rows of scores.json.
        tests: test set and direction of each split, by the name of the split.
        zero_shot: directions that are not trained.
        resources: number of training pairs of each direction.
    """
    groups = _groups({str(each) for each in zero_shot}, resources)
    by_system: dict[_Key, list[ScoreRow]] = {}
    for row in rows:
        key = (row.system, row.seed, way_name(row), tests[row.test_set][0], _engine(row))
        by_system.setdefault(key, []).append(row)
    found = []
    for key, own in by_system.items():
        for group, belongs in groups.items():
            chosen = [row for row in own if belongs(tests[row.test_set][1])]
            if chosen:
                found.append(_mean(chosen, group, key[3]))
    return found


def _engine(row: ScoreRow) -> str | None:
    return row.deployment.engine if row.deployment is not None and row.deployment.is_exported else None


def _groups(zero_shot: Collection[str], resources: Resources) -> dict[str, Belongs]:
    """Return the groups of directions by their names."""

    def is_trained(direction: Direction) -> bool:
        return str(direction) not in zero_shot

    def of_class(name: str) -> Belongs:
        return lambda each: is_trained(each) and resources.class_of(each) == name

    return {
        ALL_TRAINED: is_trained,
        "to English": lambda each: is_trained(each) and to_english(each),
        "from English": lambda each: is_trained(each) and from_english(each),
        **{f"{name}-resource": of_class(name) for name in ("high", "medium", "low")},
        "zero-shot": lambda each: not is_trained(each),
    }


def _mean(rows: Sequence[ScoreRow], group: str, test_set: str) -> AverageRow:
    metrics = [name for name in rows[0].scores if all(name in row.scores for row in rows)]
    rates = [row.off_target for row in rows if row.off_target is not None]
    return AverageRow(
        system=rows[0].system,
        seed=rows[0].seed,
        test_set=test_set,
        group=group,
        directions=[str(row.direction) for row in rows],
        way=way_name(rows[0]),
        scores={name: math.fsum(row.scores[name].value for row in rows) / len(rows) for name in metrics},
        off_target=math.fsum(rates) / len(rates) if rates else None,
        engine=_engine(rows[0]),
    )


def write_averages(path: Path, rows: Sequence[AverageRow]) -> None:
    """Write the means as a list of objects, which have an engine only if the model is exported."""
    write_json(path, list(map(_values, rows)), indent=2)


def _values(row: AverageRow) -> dict[str, object]:
    values = asdict(row)
    if row.engine is None:  # so that files without engines are as before
        del values["engine"]
    return values


def read_averages(path: Path) -> list[AverageRow]:
    """Return the means in a file.

    Raises:
        UserError: if the file is missing or damaged.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: not a list")
    return read_record(list[AverageRow], content, str(path))


def averages_table(rows: Sequence[AverageRow]) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return the means over seeds as a table: headings, lines, and whether each column has figures.

    There is a line for each system, engine, test set, way of decoding and group of directions.
    """
    merged = _over_seeds(rows)
    metrics = list(dict.fromkeys(name for row in merged for name in row.scores))
    has_rates = any(row.off_target is not None for row in merged)
    has_engines = any(row.engine is not None for row in merged)
    header = ["system", *(["engine"] if has_engines else []), "test set", "directions", "number", "beam"]
    words = len(header) - 2
    header += map(metric_label, metrics)
    lines = [
        [
            *(row.system, *([row.engine or "checkpoint"] if has_engines else [])),
            *(row.test_set, row.group, str(len(row.directions)), row.way),
            *(f"{row.scores[name]:.2f}" if name in row.scores else "" for name in metrics),
            *([_rate(row.off_target)] if has_rates else []),
        ]
        for row in merged
    ]
    header += ["off-target %"] if has_rates else []
    return header, lines, [False] * words + [True] * (len(header) - words)


def averages_text(rows: Sequence[AverageRow], *, width: int, ascii_only: bool) -> str:
    """Return the means over seeds as a table of plain text.

    Args:
        width: number of columns of the terminal.
        ascii_only: whether to use only ASCII for lines and signs.
    """
    header, lines, figures = averages_table(rows)
    table = make_table("averages over directions", header, lines, figures, ascii_only=ascii_only)
    return draw(lambda console: console.print(table, crop=False), width=width, ascii_only=ascii_only)


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.1f}"


def _over_seeds(rows: Sequence[AverageRow]) -> list[AverageRow]:
    """Return the means over the seeds of each system."""
    by_key: dict[tuple[str, str, str, str, str | None], list[AverageRow]] = {}
    for row in rows:
        by_key.setdefault((row.system, row.test_set, row.group, row.way, row.engine), []).append(row)
    merged = []
    for own in by_key.values():
        scores = {name: math.fsum(row.scores[name] for row in own) / len(own) for name in own[0].scores}
        rates = [row.off_target for row in own if row.off_target is not None]
        merged.append(replace(own[0], scores=scores, off_target=math.fsum(rates) / len(rates) if rates else None))
    return merged
