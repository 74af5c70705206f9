"""Averages of scores over the directions of a multilingual system."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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


@dataclass(frozen=True)
class AverageRow:
    """Means of the scores of one system over directions.

    Attributes:
        test_set: name of the test set in the settings.
        group: `all` for the trained directions, `to English` and `from English` among them, `zero-shot` for the others.
        directions: the directions.
        scores: metric -> mean of the scores of the directions.
        off_target: mean of the off-target rates, 0 to 100; None if they are not measured.
    """

    system: str
    seed: int
    test_set: str
    group: str
    directions: list[str]
    way: str
    scores: dict[str, float]
    off_target: float | None = None


def average_rows(
    rows: Sequence[ScoreRow], tests: Mapping[str, tuple[str, Direction]], zero_shot: Sequence[Direction]
) -> list[AverageRow]:
    """Return the means of the scores over groups of directions.

    Args:
        rows: rows of scores.json.
        tests: test set and direction of each split, by the name of the split.
        zero_shot: directions that are not trained.
    """
    groups: dict[str, Callable[[Direction], bool]] = {
        "all": lambda each: each not in zero_shot,
        "to English": lambda each: each not in zero_shot and to_english(each),
        "from English": lambda each: each not in zero_shot and from_english(each),
        "zero-shot": lambda each: each in zero_shot,
    }
    keys = dict.fromkeys((row.system, row.seed, way_name(row), tests[row.test_set][0]) for row in rows)
    found = []
    for key in keys:
        own = [row for row in rows if (row.system, row.seed, way_name(row), tests[row.test_set][0]) == key]
        for group, belongs in groups.items():
            chosen = [row for row in own if belongs(tests[row.test_set][1])]
            if chosen:
                found.append(_mean(chosen, group, key[3]))
    return found


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
    )


def write_averages(path: Path, rows: Sequence[AverageRow]) -> None:
    """Write the means as a list of objects."""
    write_json(path, [asdict(row) for row in rows], indent=2)


def read_averages(path: Path) -> list[AverageRow]:
    """Return the means in a file.

    Raises:
        UserError: if the file is missing or damaged.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: not a list")
    return read_record(list[AverageRow], content, str(path))


def averages_text(rows: Sequence[AverageRow], *, width: int, ascii_only: bool) -> str:
    """Return the means over seeds as a table of plain text, one line for each system, way of decoding and group.

    Args:
        width: number of columns of the terminal.
        ascii_only: whether to use only ASCII for lines and signs.
    """
    merged = _over_seeds(rows)
    metrics = list(dict.fromkeys(name for row in merged for name in row.scores))
    has_rates = any(row.off_target is not None for row in merged)
    header = ["system", "test set", "directions", "number", "beam", *map(metric_label, metrics)]
    lines = [
        [
            *(row.system, row.test_set, row.group, str(len(row.directions)), row.way),
            *(f"{row.scores[name]:.2f}" if name in row.scores else "" for name in metrics),
            *([_rate(row.off_target)] if has_rates else []),
        ]
        for row in merged
    ]
    header += ["off-target %"] if has_rates else []
    figures = [False] * 3 + [True] * (len(header) - 3)
    table = make_table("averages over directions", header, lines, figures, ascii_only=ascii_only)
    return draw(lambda console: console.print(table, crop=False), width=width, ascii_only=ascii_only)


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.1f}"


def _over_seeds(rows: Sequence[AverageRow]) -> list[AverageRow]:
    """Return the means over the seeds of each system."""
    by_key: dict[tuple[str, str, str, str], list[AverageRow]] = {}
    for row in rows:
        by_key.setdefault((row.system, row.test_set, row.group, row.way), []).append(row)
    merged = []
    for own in by_key.values():
        scores = {name: math.fsum(row.scores[name] for row in own) / len(own) for name in own[0].scores}
        rates = [row.off_target for row in own if row.off_target is not None]
        merged.append(replace(own[0], scores=scores, off_target=math.fsum(rates) / len(rates) if rates else None))
    return merged
