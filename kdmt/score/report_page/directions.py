"""Scores of systems with several directions for the report: heat maps, averages and significance by direction."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kdmt.languages import Direction
from kdmt.score.averages import AverageRow, averages_table
from kdmt.score.metrics import main_metric, metric_label
from kdmt.score.report_page.facts import Facts
from kdmt.score.row_groups import Group, decoding_name, group_rows, way_name
from kdmt.score.score_files import Comparison, ScoreRow

_OFF_TARGET = "off-target %"

Tests = Mapping[str, tuple[str, Direction]]  # test set and direction of each split, by the name of the split
Cell = tuple[str, str]  # source and target language
_Value = Callable[[ScoreRow], "float | None"]
_Run = tuple[str, str, int]  # split, system, seed


@dataclass(frozen=True)
class HeatMap:
    """Scores of one system on one test set by source and target language; means over seeds.

    Attributes:
        label: system with its engine and its way of decoding.
        metric: name of the metric, as it is shown.
        sources, targets: languages of the rows and of the columns.
        values: score of each direction with a test set.
        zero_shot: directions that were not trained.
        limits: lowest and highest value of all systems on the test set, between which colours are chosen.
        digits: number of decimals.
    """

    label: str
    metric: str
    sources: Sequence[str]
    targets: Sequence[str]
    values: Mapping[Cell, float]
    zero_shot: frozenset[Cell]
    limits: tuple[float, float]
    digits: int

    def strength(self, cell: Cell) -> float:
        """Return the place of a value between the limits, from 0 to 1; 1 if all values are equal."""
        low, high = self.limits
        return 1.0 if high <= low else (self.values[cell] - low) / (high - low)

    def table(self) -> Facts:
        """Return the map as a table. Zero-shot directions have a `*`."""
        lines = [[source, *(self._text((source, target)) for target in self.targets)] for source in self.sources]
        figures = [False, *(True for _ in self.targets)]
        return Facts(f"{self.label}, {self.metric}", ["from \\ to", *self.targets], lines, figures)

    def _text(self, cell: Cell) -> str:
        if cell not in self.values:
            return ""
        return f"{self.values[cell]:.{self.digits}f}{'*' if cell in self.zero_shot else ''}"


@dataclass(frozen=True)
class MapsOfMetric:
    """Heat maps of all systems on one test set with one metric.

    Attributes:
        test_set: name of the test set in the settings.
        metric: name of the metric, as it is shown.
        is_main: whether it is the main metric, whose maps are open at first.
        maps: one map for each system, engine and way of decoding.
    """

    test_set: str
    metric: str
    is_main: bool
    maps: Sequence[HeatMap]


@dataclass(frozen=True)
class DirectionScores:
    """What the page shows of several directions.

    Attributes:
        maps: heat maps by test set and metric.
        averages: means over groups of directions; None if there is nothing to show.
        differences: differences from the baseline by direction, a table for each test set and baseline.
        classes: description of the resource classes; empty if there are none.
        trained_splits: test set -> its splits in trained directions, whose means are in the charts of quality.
    """

    maps: Sequence[MapsOfMetric]
    averages: Facts | None
    differences: Sequence[Facts]
    classes: str
    trained_splits: Mapping[str, Sequence[str]]


# ----------------------------------------------------------------------------------------------------------- heat maps


def direction_maps(rows: Sequence[ScoreRow], tests: Tests, zero_shot: Sequence[Direction]) -> list[MapsOfMetric]:
    """Return the heat maps of all test sets, metrics and systems.

    Args:
        rows: rows of scores.json; those whose test set is not in `tests` are left out.
        tests: test set and direction of each split.
        zero_shot: directions that were not trained.
    """
    untrained = frozenset(each.sides for each in zero_shot)
    found = []
    for name, own in _by_test_set(rows, tests).items():
        metrics = list(dict.fromkeys(metric for row in own for metric in row.scores))
        values: dict[str, _Value] = {metric_label(metric): _value_of(metric) for metric in metrics}
        if any(row.off_target is not None for row in own):
            values[_OFF_TARGET] = lambda row: row.off_target
        main = metric_label(main_metric(metrics)) if metrics else _OFF_TARGET
        for label, value in values.items():
            maps = list(_maps(own, tests, untrained, label, value))
            if maps:
                found.append(MapsOfMetric(name, label, label == main, maps))
    return found


def _by_test_set(rows: Sequence[ScoreRow], tests: Tests) -> dict[str, list[ScoreRow]]:
    found: dict[str, list[ScoreRow]] = {}
    for row in rows:
        if row.test_set in tests:
            found.setdefault(tests[row.test_set][0], []).append(row)
    return found


def _value_of(metric: str) -> _Value:
    return lambda row: row.scores[metric].value if metric in row.scores else None


def _maps(
    rows: Sequence[ScoreRow], tests: Tests, zero_shot: frozenset[Cell], metric: str, value: _Value
) -> Iterator[HeatMap]:
    """Yield a map for each system, engine and way of decoding with a value."""
    groups = {_label(group): _means(group, tests, value) for group in group_rows(rows)}
    groups = {label: values for label, values in groups.items() if values}
    every = [each for values in groups.values() for each in values.values()]
    cells = list(dict.fromkeys(tests[row.test_set][1].sides for row in rows))
    sources, targets = (list(dict.fromkeys(cell[side] for cell in cells)) for side in (0, 1))
    targets.sort(key=lambda code: sources.index(code) if code in sources else len(sources))
    for label, values in groups.items():
        limits = (min(every), max(every))
        digits = 1 if limits[1] - limits[0] >= 1 or limits[1] >= 10 else 3
        yield HeatMap(label, metric, sources, targets, values, zero_shot, limits, digits)


def _label(group: Group) -> str:
    return f"{group[0].system}, {decoding_name(group[0])}"


def _means(group: Group, tests: Tests, value: _Value) -> dict[Cell, float]:
    """Return the mean over seeds of each direction."""
    found: dict[Cell, list[float]] = {}
    for row in group:
        number = value(row)
        if number is not None:
            found.setdefault(tests[row.test_set][1].sides, []).append(number)
    return {cell: statistics.fmean(values) for cell, values in found.items()}


# ------------------------------------------------------------------------------------------------------------ averages


def averages_facts(rows: Sequence[AverageRow]) -> Facts | None:
    """Return the table of the means over directions; None if there are none."""
    return Facts("averages over directions", *averages_table(rows)) if rows else None


# -------------------------------------------------------------------------------------------------------- significance


def differences_by_direction(
    rows: Sequence[ScoreRow], comparisons: Sequence[Comparison], tests: Tests
) -> Iterator[Facts]:
    """Yield a table for each test set and baseline: a line for each direction, a column for each system.

    A cell is the difference of the main metric, the mean over seeds, with the range of the p-values of the paired
    bootstrap test over the seeds.
    """
    compared = _ComparedRows.of(rows)
    for name, own in _by_test_set(rows, tests).items():
        metric = main_metric(list(dict.fromkeys(each for row in own for each in row.scores)) or [""])
        here = [each for each in comparisons if tests.get(each.test_set, ("",))[0] == name and metric in each.p_values]
        for baseline in dict.fromkeys(each.baseline for each in here):
            cells = _differences([each for each in here if each.baseline == baseline], compared, tests, metric)
            columns = list(dict.fromkeys(column for found in cells.values() for column in found))
            lines = [
                [direction, *(_difference_text(found.get(column, [])) for column in columns)]
                for direction, found in cells.items()
            ]
            if lines:
                title = f"{name}: {metric_label(metric)} minus that of {baseline}, with p"
                yield Facts(title, ["direction", *columns], lines, [False, *(True for _ in columns)])


def _differences(
    comparisons: Sequence[Comparison], rows: _ComparedRows, tests: Tests, metric: str
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return the difference and the p-value of each seed by direction and system."""
    cells: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for each in comparisons:
        found = rows.find(each)
        if found is None or any(metric not in row.scores for row in found):
            continue
        own, base = found
        difference = own.scores[metric].value - base.scores[metric].value
        by_system = cells.setdefault(str(tests[each.test_set][1]), {})
        column = f"{each.system},\n{decoding_name(own)}"
        by_system.setdefault(column, []).append((difference, each.p_values[metric].value))
    return cells


@dataclass(frozen=True)
class _ComparedRows:
    """The rows that comparisons compare.

    Attributes:
        by_run: rows by split, system and seed.
        first_seeds: seed of the first row of each split and system.
    """

    by_run: Mapping[_Run, Sequence[ScoreRow]]
    first_seeds: Mapping[tuple[str, str], int]

    @classmethod
    def of(cls, rows: Sequence[ScoreRow]) -> _ComparedRows:
        by_run: dict[_Run, list[ScoreRow]] = {}
        first_seeds: dict[tuple[str, str], int] = {}
        for row in rows:
            by_run.setdefault((row.test_set, row.system, row.seed), []).append(row)
            first_seeds.setdefault((row.test_set, row.system), row.seed)
        return cls(by_run, first_seeds)

    def find(self, comparison: Comparison) -> tuple[ScoreRow, ScoreRow] | None:
        """Return the row of a system and that of its baseline, as `kdmt.score.systems.compare_runs` chooses them."""
        split, baseline = comparison.test_set, comparison.baseline
        candidates = self.by_run.get((split, comparison.system, comparison.seed), ())
        own = next((row for row in candidates if _is_of(row, comparison)), None)
        first = self.first_seeds.get((split, baseline))
        if own is None or first is None:
            return None
        for seed in (comparison.seed, first):
            for row in self.by_run.get((split, baseline, seed), ()):
                if way_name(row) == way_name(own):
                    return own, row
        return own, self.by_run[split, baseline, first][0]


def _is_of(row: ScoreRow, comparison: Comparison) -> bool:
    names = ("engine", "compute_type", "beam", "iterations", "wait_k")
    return all(getattr(row, name) == getattr(comparison, name) for name in names)


def _difference_text(found: Sequence[tuple[float, float]]) -> str:
    if not found:
        return ""
    low, high = (f"{limit(p for _, p in found):.3f}" for limit in (min, max))
    mean = statistics.fmean(difference for difference, _ in found)
    return f"{mean:+.2f} ({low if low == high else f'{low}–{high}'})"
