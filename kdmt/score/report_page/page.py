"""The page `report.html`: one file without scripts, which loads nothing.

The template `page.html.jinja` escapes every text that is not marked as HTML. Without matplotlib the page has no charts
and says how to get them; the tables remain.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from kdmt.html_page import table_html
from kdmt.score.diagnostics_report import diagnostics_html
from kdmt.score.metrics import main_metric, metric_label
from kdmt.score.report import score_notes, score_tables_html
from kdmt.score.report_page import charts
from kdmt.score.report_page.content import Gaps, ReportContent, TrainingSetSummary
from kdmt.score.report_page.directions import MapsOfMetric
from kdmt.score.report_page.facts import Facts
from kdmt.score.report_page.recommendation import Candidate, Recommendation, recommend
from kdmt.score.row_groups import Group, decoding_name, group_rows, way_name
from kdmt.score.score_files import ScoreRow
from kdmt.score.system_diagnostics import REFERENCE, DiagnosticsRow

_TEMPLATE = "page.html.jinja"
_MAX_GAPS = 40  # lines of a chart of differences


@dataclass(frozen=True)
class Cost:
    """A cost of a system, or a speed, for the charts of quality.

    Attributes:
        label: label of the axis, with its unit.
        value: function that returns the value of a row, None if it was not measured.
        more_is_better: whether higher values are better.
    """

    label: str
    value: Callable[[ScoreRow], float | None]
    more_is_better: bool = False


COSTS = (
    Cost("sentences/s at batch 1", lambda row: row.sentences_per_second_batch1, more_is_better=True),
    Cost("sentences/s, full batch", lambda row: row.sentences_per_second_max, more_is_better=True),
    Cost("million parameters", lambda row: row.parameters / 1e6),
    Cost("MB on disk", lambda row: None if row.deployment is None else row.deployment.bytes_on_disk / 1e6),
    Cost("MB of memory", lambda row: None if row.deployment is None else row.deployment.cost.resident_bytes / 1e6),
)


def render_page(content: ReportContent, *, with_charts: bool | None = None) -> str:
    """Return the page.

    Args:
        content: what the page shows.
        with_charts: whether to draw charts; None for charts if matplotlib is installed.

    Raises:
        ValueError: if there are no rows of scores.
    """
    drawn = _Charts(charts.has_charts() if with_charts is None else with_charts)
    scored = content.directions
    recommended = recommend([row for row in content.rows if row.test_set in content.test_sets])
    return _template().render(
        content=content,
        has_charts=drawn.are_drawn,
        recommended=recommended,
        summary=_table(_summary(recommended)) if recommended else None,
        quality=list(_quality(content, recommended, drawn)),
        heat_maps=[(each, list(_heat_maps(each, drawn))) for each in (scored.maps if scored is not None else ())],
        averages=None if scored is None or scored.averages is None else _table(scored.averages),
        differences=[_table(facts) for facts in (scored.differences if scored is not None else ())],
        scores=[_scrolling(table) for table in _score_tables(content)],
        curves=list(_curves(content, drawn)),
        training_sets=[(made, _failures(made), list(_set_charts(made, drawn))) for made in content.training_sets],
        gaps=[(each, list(_gap_tables(each)), list(_gap_charts(each, drawn))) for each in content.gaps],
        kinds=list(_kinds(content, drawn)),
        diagnostics=None if content.diagnostics is None else Markup(diagnostics_html(content.diagnostics)),
        data=[_table(facts) for facts in content.data],
        versions=None if content.reproduction is None else _table(content.reproduction.versions),
        inputs=None if content.reproduction is None else _table(content.reproduction.inputs),
        notes=score_notes(content.rows, content.comparisons, content.missing, content.notes),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["visible"] = visible
    return environment.get_template(_TEMPLATE)


def visible(text: str) -> str:
    """Return a text in which characters that are not printable are shown by their code."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


class _Charts:
    """Draws charts with different names, or none."""

    def __init__(self, are_drawn: bool) -> None:
        self.are_drawn = are_drawn
        self._numbers = count(1)

    def draw(self, chart: Callable[..., str], *values: object, **settings: object) -> Iterator[Markup]:
        """Yield the chart that a function of `charts` returns for these arguments and a name."""
        if self.are_drawn:
            yield Markup(chart(*values, **settings, name=f"chart-{next(self._numbers)}"))


# -------------------------------------------------------------------------------------------------------------- tables


def _score_tables(content: ReportContent) -> list[str]:
    return score_tables_html(content.rows, content.comparisons, content.missing, content.notes)


def _table(facts: Facts) -> Markup:
    header = facts.header or [""] * len(facts.figures)
    return _scrolling(table_html(facts.title, header, facts.lines, facts.figures))


def _scrolling(table: str) -> Markup:
    return Markup(f'<div class="scroll">{table}</div>')


def _summary(found: Recommendation) -> Facts:
    """Return the recommended student with the best one and the teacher."""
    compared: list[tuple[str, Candidate]] = [("recommended", found.chosen)]
    if found.best != found.chosen:
        compared.append(("best student", found.best))
    if found.teacher is not None:
        compared.append(("teacher", found.teacher))
    lines = [
        [
            role,
            each.system,
            each.decoding,
            f"{each.score:.2f}",
            f"{each.speed:,.1f}",
            "" if found.teacher is None else f"{each.speed / found.teacher.speed:.1f}x",
            f"{each.parameters:,}",
        ]
        for role, each in compared
    ]
    header = ["", "system", "decoding", metric_label(found.metric), "sentences/s at batch 1", "speed-up", "parameters"]
    return Facts("", header, lines, [False, False, False, True, True, True, True])


def _failures(made: TrainingSetSummary) -> Markup:
    lines = [
        [name, f"{found:,}", f"{replaced:,}", f"{dropped:,}"]
        for name, (found, replaced, dropped) in made.failures.items()
    ]
    if not lines:
        return Markup("")
    header = ["failure", "sentences", "replaced by the reference", "dropped"]
    return _table(Facts("failed translations", header, lines, [False, True, True, True]))


def _gap_tables(found: Gaps) -> Iterator[Markup]:
    label = metric_label(found.metric)
    for title, gaps in (
        (f"students minus teacher, {label} on {found.test_set}", found.from_teacher),
        (f"exported models minus the same model in PyTorch, {label} on {found.test_set}", found.exported),
    ):
        if gaps:
            lines = [
                [each.label, each.other, f"{each.gap.difference:+.2f}", f"{each.gap.low:+.2f} to {each.gap.high:+.2f}"]
                for each in gaps
            ]
            yield _table(Facts(title, ["system", "compared with", "difference", "95% interval"], lines, _GAP_FIGURES))


_GAP_FIGURES = (False, False, True, True)


# -------------------------------------------------------------------------------------------------------------- charts


def _quality(content: ReportContent, recommended: Recommendation | None, drawn: _Charts) -> Iterator[Markup]:
    """Yield the charts of the main metric against each cost, for each test set; of the mean over trained directions."""
    chosen = None if recommended is None else (recommended.chosen.system, recommended.chosen.decoding)
    for test_set, splits in _charted_sets(content).items():
        rows = [row for row in content.rows if row.test_set in splits]
        metric = main_metric(list(dict.fromkeys(name for row in rows for name in row.scores)) or [""])
        scored = [row for row in rows if metric in row.scores]
        if not scored or not scored[0].scores[metric].higher_is_better:
            continue  # the frontier is that of the highest scores
        groups = [group for group in group_rows(scored) if len({row.test_set for row in group}) == len(splits)]
        engines = {(row.engine, row.compute_type) for row in scored}
        for cost in COSTS:
            marks = [
                charts.Mark(
                    group[0].system,
                    f"{group[0].engine} {group[0].compute_type}",
                    _mark_label(group[0], with_engine=len(engines) > 1),
                    value,
                    statistics.fmean(row.scores[metric].value for row in group),
                    is_chosen=(group[0].system, decoding_name(group[0])) == chosen,
                )
                for group in groups
                if (value := _cost(cost, group)) is not None
            ]
            if marks:
                yield from drawn.draw(
                    charts.quality_chart,
                    marks,
                    cost_label=cost.label,
                    score_label=f"{metric_label(metric)} on {test_set}",
                    more_is_better=cost.more_is_better,
                )


def _charted_sets(content: ReportContent) -> dict[str, Sequence[str]]:
    """Return the splits whose mean is in a chart, by the name of the chart."""
    if content.directions is None:
        return {test_set: [test_set] for test_set in content.test_sets}
    return {
        f"{name}, mean of {len(splits)} directions": splits
        for name, splits in content.directions.trained_splits.items()
    }


def _heat_maps(found: MapsOfMetric, drawn: _Charts) -> Iterator[Markup]:
    """Yield the heat maps of a metric, as tables if no charts are drawn."""
    for each in found.maps:
        if drawn.are_drawn:
            yield from drawn.draw(charts.heat_map_chart, each)
        else:
            yield _table(each.table())


def _cost(cost: Cost, group: Group) -> float | None:
    """Return the median of a cost over the rows of a group in which it was measured; None without a value above 0."""
    values = [value for row in group if (value := cost.value(row)) is not None and value > 0]
    return statistics.median(values) if values else None


def _mark_label(row: ScoreRow, *, with_engine: bool) -> str:
    way = f"beam {row.beam}" if row.iterations is None and row.wait_k is None else way_name(row)
    return f"{row.system}, {row.engine} {row.compute_type}, {way}" if with_engine else f"{row.system}, {way}"


def _curves(content: ReportContent, drawn: _Charts) -> Iterator[Markup]:
    found = content.curves
    if found.validation:
        label = "negative log-likelihood"
        yield from drawn.draw(charts.curves_chart, found.validation, found.training, label=label, is_loss=True)
    for metric, curves in found.scores.items():
        yield from drawn.draw(charts.curves_chart, curves, label=f"validation {metric_label(metric)}")


def _set_charts(made: TrainingSetSummary, drawn: _Charts) -> Iterator[Markup]:
    for each in made.histograms:
        yield from drawn.draw(charts.histogram_chart, each.edges, each.counts, label=each.label, unit="sentences")
    if made.failures:
        values = {name: found for name, (found, _, _) in made.failures.items()}
        yield from drawn.draw(charts.bars_chart, values, label="failed translations")


def _gap_charts(found: Gaps, drawn: _Charts) -> Iterator[Markup]:
    unit = f"{metric_label(found.metric)} on {found.test_set}"
    for gaps, what in ((found.from_teacher, "teacher"), (found.exported, "PyTorch")):
        shown = gaps[:_MAX_GAPS]
        if shown:
            labels = [f"{each.label} − {what}" for each in shown]
            yield from drawn.draw(charts.gaps_chart, [each.gap for each in shown], labels, unit=unit)


def _kinds(content: ReportContent, drawn: _Charts) -> Iterator[Markup]:
    """Yield charts of the score by length and by other kinds of sentences, for each test set."""
    found = content.diagnostics
    if found is None:
        return
    label = metric_label(found.score)
    for test_set in content.test_sets:
        systems = _first_ways([row for row in found.rows if row.test_set == test_set])
        kinds = list(dict.fromkeys(kind for rows in systems.values() for row in rows for kind in row.kinds))
        lengths = kinds[: sum(1 for kind in kinds if kind[0].isdigit())]
        others = [kind for kind in kinds if kind not in lengths]
        for chosen, joined in ((lengths, True), (others, False)):
            scores = {name: [_kind_score(rows, kind) for kind in chosen] for name, rows in systems.items()}
            is_comparison = len(chosen) > 1 or not joined
            if is_comparison and any(value is not None for values in scores.values() for value in values):
                yield from drawn.draw(charts.kinds_chart, chosen, scores, label=f"{label} on {test_set}", joined=joined)


def _first_ways(rows: Sequence[DiagnosticsRow]) -> dict[str, list[DiagnosticsRow]]:
    """Return the rows of each system with its first way of decoding, without the references."""
    found: dict[str, list[DiagnosticsRow]] = {}
    for row in rows:
        if row.system != REFERENCE:
            own = found.setdefault(row.system, [])
            if not own or (row.beam, row.iterations) == (own[0].beam, own[0].iterations):
                own.append(row)
    return found


def _kind_score(rows: Sequence[DiagnosticsRow], kind: str) -> float | None:
    values = [row.kinds[kind].score for row in rows if kind in row.kinds]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
