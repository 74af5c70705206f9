"""Averages and heat maps of a pipeline with several directions, from the rows of the score stage."""

from __future__ import annotations

from collections.abc import Sequence

from kdmt.config import Pipeline
from kdmt.corpus.prepared import REPORT
from kdmt.files import read_optional_json
from kdmt.languages import Direction
from kdmt.score.averages import AverageRow, Resources, average_rows
from kdmt.score.report_page.directions import (
    DirectionScores,
    averages_facts,
    differences_by_direction,
    direction_maps,
)
from kdmt.score.score_files import Comparison, ScoreRow
from kdmt.stages.workspace import Workspace


def direction_averages(workspace: Workspace, rows: Sequence[ScoreRow]) -> list[AverageRow]:
    """Return the means of the scores over groups of directions.

    Args:
        rows: rows of scores.json.
    """
    config = workspace.config
    return average_rows(rows, _tests(config), _zero_shot(config), _resources(workspace))


def direction_scores(
    workspace: Workspace, rows: Sequence[ScoreRow], comparisons: Sequence[Comparison]
) -> DirectionScores | None:
    """Return what the report shows of several directions; None for a pipeline with one direction.

    Args:
        rows, comparisons: content of scores.json and significance.json.
    """
    config = workspace.config
    if not config.is_multilingual:
        return None
    tests, resources = _tests(config), _resources(workspace)
    scored, zero_shot = {row.test_set for row in rows}, {str(each) for each in _zero_shot(config)}
    trained: dict[str, list[str]] = {}
    for split, (name, direction) in config.tests_by_split.items():
        if split in scored and str(direction) not in zero_shot:
            trained.setdefault(name, []).append(split)
    return DirectionScores(
        maps=direction_maps(rows, tests, _zero_shot(config)),
        averages=averages_facts(direction_averages(workspace, rows)),
        differences=list(differences_by_direction(rows, comparisons, tests)),
        classes=_describe(resources) if resources.pairs else "",
        trained_splits=trained,
    )


def _tests(config: Pipeline) -> dict[str, tuple[str, Direction]]:
    """Return the test set and the direction of each split and of its variants, by the name in the rows."""
    found: dict[str, tuple[str, Direction]] = {}
    for split, (name, direction) in config.tests_by_split.items():
        found[split] = name, direction
        found |= {f"{split}.{variant}": (f"{name}.{variant}", direction) for variant in config.score.variants}
    return found


def _zero_shot(config: Pipeline) -> list[Direction]:
    trained = config.trained_directions
    return [each for each in config.all_directions if each not in trained]


def _resources(workspace: Workspace) -> Resources:
    """Return the number of training pairs of each direction from the report of the prepare stage."""
    report = read_optional_json(workspace.prepare / REPORT) or {}
    found = report.get("directions")
    counts = {
        str(name): values["pairs_out"]
        for name, values in (found.items() if isinstance(found, dict) else ())
        if isinstance(values, dict) and type(values.get("pairs_out")) is int
    }
    limits = workspace.config.score.resource_classes
    return Resources(counts, low_below=limits.low_below, high_from=limits.high_from)


def _describe(resources: Resources) -> str:
    return (
        f"Low-resource directions have fewer than {resources.low_below:,} training pairs, high-resource directions "
        f"{resources.high_from:,} or more."
    )
