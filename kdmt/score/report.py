"""Tables and notes of scores, for the terminal and for the page `report.html`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.table import Table

from kdmt.choices import AgreementMetric
from kdmt.html_page import table_html
from kdmt.models.checkpoint_choice import describe_updates
from kdmt.score.deployment import Deployment
from kdmt.score.human_agreement import agreement
from kdmt.score.lagging import SIGNATURE
from kdmt.score.metrics import METRICS, MetricScore, main_metric, metric_label
from kdmt.score.report_notes import NO_NOTES, ReportNotes
from kdmt.score.row_groups import Group, engine_name, group_rows, way_name
from kdmt.score.score_files import Comparison, Missing, ScoreRow, TakenCheckpoint
from kdmt.score.significance import mean_and_sd
from kdmt.score.text_table import draw, make_table

_NARROW = 10  # width of a range whose scores have four decimals
_NUM_REFERENCES = re.compile(r"\bnrefs:([0-9]{1,4})\b")


@dataclass(frozen=True)
class _Column:
    header: str
    cell: Callable[[Group], str]
    is_figure: bool = True
    is_score: bool = False


@dataclass(frozen=True)
class _Table:
    """Content of a table, for the terminal and for the HTML page."""

    title: str
    columns: list[_Column]
    groups: list[Group]
    missing: Sequence[str] = ()  # systems without scores

    def lines(self) -> list[list[str]]:
        lines = [[column.cell(group) for column in self.columns] for group in self.groups]
        place = next((number for number, column in enumerate(self.columns) if column.is_score), 0)
        for name in self.missing:
            cells = [""] * len(self.columns)
            cells[0], cells[place] = name, "missing"
            lines.append(cells)
        return lines


def render_table(
    rows: Sequence[ScoreRow],
    comparisons: Sequence[Comparison] = (),
    *,
    missing: Sequence[Missing] = (),
    extra: ReportNotes = NO_NOTES,
    width: int = 100,
    ascii_only: bool = False,
) -> str:
    """Return the scores as plain text: a table for each test set, one of sizes and speeds, and the signatures.

    Each line is a system with one way of decoding. For several seeds it shows mean ± sample standard deviation of the
    scores, the range of the p-values (each seed is compared with its own baseline) and the median speed.

    Args:
        rows: rows of scores.json.
        comparisons: comparisons for the columns of p-values; if empty, there are no such columns.
        missing: systems without scores, each shown as a line in the tables of scores.
        extra: notes that follow from the settings.
        width: number of columns of the terminal. In a narrow terminal, names are wrapped; figures are not.
        ascii_only: whether to use only ASCII for lines and signs, for terminals without Unicode.

    Raises:
        ValueError: if there are no rows.
    """

    def write(console: Console) -> None:
        for table in _tables(rows, comparisons, missing, extra):
            console.print(_text_table(table, ascii_only=ascii_only), crop=False)
            console.print()
        notes = "\n".join(score_notes(rows, comparisons, missing, extra))
        console.print(notes, soft_wrap=True, markup=False, highlight=False)

    return draw(write, width=width, ascii_only=ascii_only)


def score_tables_html(
    rows: Sequence[ScoreRow],
    comparisons: Sequence[Comparison] = (),
    missing: Sequence[Missing] = (),
    extra: ReportNotes = NO_NOTES,
) -> list[str]:
    """Return the tables of `render_table` as HTML.

    Raises:
        ValueError: if there are no rows.
    """
    return [_html_table(table) for table in _tables(rows, comparisons, missing, extra)]


# ------------------------------------------------------------------------------------------------------------ content


def _tables(
    rows: Sequence[ScoreRow], comparisons: Sequence[Comparison], missing: Sequence[Missing], extra: ReportNotes
) -> list[_Table]:
    if not rows:
        raise ValueError("there are no scores to report")
    names = [_Column("system", lambda group: group[0].system, is_figure=False)]
    if len({engine_name(row) for row in rows}) > 1:
        names.append(_Column("engine", lambda group: engine_name(group[0]), is_figure=False))
    ways = ["beam"]
    ways += ["iterations"] if any(row.iterations is not None for row in rows) else []
    ways += ["wait-k"] if any(row.wait_k is not None for row in rows) else []
    names.append(_Column(" or\n".join(ways), lambda group: way_name(group[0])))

    tables = []
    for test_set in dict.fromkeys(row.test_set for row in rows):
        rows_here = [row for row in rows if row.test_set == test_set]
        comparisons_here = [comparison for comparison in comparisons if comparison.test_set == test_set]
        columns = names + _score_columns(rows_here, comparisons_here, extra) + _latency_columns(rows_here)
        title = f"{test_set}{_references_note(rows_here)}"
        tables.append(_Table(title, columns, group_rows(rows_here), list(_missing_names(rows, missing))))
        tables += _difference_tables(test_set, names, rows_here, comparisons_here, extra)
    return [
        *tables,
        _Table("size and speed (medians over test sets and seeds)", names + _cost_columns(rows), group_rows(rows)),
        *_engine_tables(rows, names),
    ]


def _engine_tables(rows: Sequence[ScoreRow], names: Sequence[_Column]) -> Iterator[_Table]:
    """Yield the table of students that were measured in `score.engines`, if there are any."""
    groups = group_rows(row for row in rows if row.deployment is not None)
    if not groups:
        return

    def column(header: str, value: Callable[[Deployment], float | None], digits: int) -> _Column:
        return _Column(header, partial(_median_of_deployments, value, digits))

    found = [deployment for group in groups for deployment in _deployments(group)]
    metrics = dict.fromkeys(metric for deployment in found for metric in deployment.losses)
    columns = [
        column("MB\non disk", lambda each: each.bytes_on_disk / 1e6, 1),
        column("memory\nMB", lambda each: each.cost.resident_bytes / 1e6, 0),
        column("load\ns", lambda each: each.cost.load_seconds, 2),
        column("first\nms", lambda each: each.cost.first_sentence_ms, 1),
        column("ms/sentence\nmedian", lambda each: each.cost.median_ms, 1),
        column("ms/sentence\n95%", lambda each: each.cost.p95_ms, 1),
        column("words/s\nfull batch", lambda each: each.cost.words_per_second, 0),
    ]
    if any(deployment.cost.joules_per_sentence is not None for deployment in found):
        columns.append(column("J/sentence", lambda each: each.cost.joules_per_sentence, 3))
    columns += [column(f"lost\n{metric_label(name)}", partial(_loss, name), 2) for name in metrics]
    yield _Table("students in engines (medians over test sets and seeds)", [*names, *columns], groups)


def _loss(metric: str, deployment: Deployment) -> float | None:
    return deployment.losses.get(metric)


def _deployments(group: Group) -> list[Deployment]:
    return [row.deployment for row in group if row.deployment is not None]


def _median_of_deployments(value: Callable[[Deployment], float | None], digits: int, group: Group) -> str:
    values = [found for each in _deployments(group) if (found := value(each)) is not None]
    return f"{statistics.median(values):,.{digits}f}" if values else ""


def _difference_tables(
    test_set: str,
    names: Sequence[_Column],
    rows: Sequence[ScoreRow],
    comparisons: Sequence[Comparison],
    extra: ReportNotes,
) -> Iterator[_Table]:
    """Yield a table for each baseline: differences of scores, and how often people agree with such differences."""
    metrics = [name for name in _metric_names(rows) if name in extra.agreement]
    for baseline in dict.fromkeys(comparison.baseline for comparison in comparisons):
        base = [row for row in rows if row.system == baseline and not _is_exported(row)]
        groups = group_rows(row for row in rows if row.system != baseline)
        if metrics and base and groups:
            cells = {metric: partial(_difference, metric, extra.agreement[metric], base) for metric in metrics}
            columns = [_Column(_column_label(metric, extra), cells[metric], is_score=True) for metric in metrics]
            title = f"{test_set}: differences from {baseline} (share of people's judgements that agree)"
            yield _Table(title, [*names, *columns], groups)


def _is_exported(row: ScoreRow) -> bool:
    return row.deployment is not None and row.deployment.is_exported


def _difference(metric: str, known_as: AgreementMetric, base: Sequence[ScoreRow], group: Group) -> str:
    """Return the difference of means over seeds, from the baseline with the same way of decoding, or its first one."""
    alike = [row for row in base if way_name(row) == way_name(group[0])] or [
        row for row in base if way_name(row) == way_name(base[0])
    ]
    own, other = ([row.scores[metric] for row in each if metric in row.scores] for each in (group, alike))
    if not own or not other:
        return ""
    difference = statistics.fmean(score.value for score in own) - statistics.fmean(score.value for score in other)
    return f"{difference:+.{_digits(own[0])}f} ({agreement(difference, known_as):.0f}%)"


def _references_note(rows: Iterable[ScoreRow]) -> str:
    """Return how many references a test set has, from sacreBLEU's signatures; empty for one."""
    signatures = (score.signature or "" for row in rows for score in row.scores.values())
    counts = [int(found[1]) for signature in signatures if (found := _NUM_REFERENCES.search(signature))]
    return f" ({max(counts)} references)" if max(counts, default=1) > 1 else ""


def _missing_names(rows: Sequence[ScoreRow], missing: Sequence[Missing]) -> Iterator[str]:
    """Yield the name of each system without any scores once, with the seed if other seeds have scores."""
    scored = {row.system for row in rows}
    yield from dict.fromkeys(
        f"{each.system}, seed {each.seed}" if each.system in scored else each.system
        for each in missing
        if each.engine is None
    )


def _score_columns(rows: Sequence[ScoreRow], comparisons: Sequence[Comparison], extra: ReportNotes) -> list[_Column]:
    columns = []
    for name in _metric_names(rows):
        columns.append(_Column(_column_label(name, extra), partial(_mean_score, name), is_score=True))
        if any(name in row.second_scores for row in rows):
            columns.append(_Column(_second_label(name), partial(_mean_second_score, name), is_score=True))
    for baseline in dict.fromkeys(comparison.baseline for comparison in comparisons):
        against = [comparison for comparison in comparisons if comparison.baseline == baseline]
        columns.append(_Column(f"p against\n{baseline}", partial(_p_values, against, _main_metric(rows))))
        for name in _external_names(rows):
            columns.append(_Column(f"p ({name})\nagainst {baseline}", partial(_p_values, against, name)))
    return columns


def _latency_columns(rows: Sequence[ScoreRow]) -> list[_Column]:
    """Return the columns of the latency of simultaneous translation; none if there is none."""
    names = dict.fromkeys(name for row in rows for name in row.latency or ())
    return [_Column(name.upper(), partial(_mean_latency, name)) for name in names]


def _mean_latency(metric: str, group: Group) -> str:
    return _mean([row.latency[metric] for row in group if row.latency])


def _metric_names(rows: Iterable[ScoreRow]) -> list[str]:
    """Return the names of the metrics in the rows, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.scores))


def _external_names(rows: Iterable[ScoreRow]) -> list[str]:
    """Return the names of the external scorers in the rows."""
    return [name for name in _metric_names(rows) if name not in METRICS]


def _main_metric(rows: Iterable[ScoreRow]) -> str:
    return main_metric(_metric_names(rows))


def _column_label(name: str, extra: ReportNotes) -> str:
    """Return the heading of a metric, with a mark if it chose training targets."""
    return f"{metric_label(name)}{'*' if name in extra.chose else ''}"


def _second_label(name: str) -> str:
    return f"{metric_label(name)} (2)"


def _mean_score(metric: str, group: Group) -> str:
    scores = [row.scores[metric] for row in group if metric in row.scores]
    return _mean([score.value for score in scores], digits=max(map(_digits, scores), default=2))


def _digits(score: MetricScore) -> int:
    """Return the number of decimals of a score, more for a narrow range."""
    low, high = score.range
    return 4 if low is not None and high is not None and high - low <= _NARROW else 2


def _mean_second_score(metric: str, group: Group) -> str:
    return _mean([row.second_scores[metric].value for row in group if metric in row.second_scores])


def _cost_columns(rows: Sequence[ScoreRow]) -> list[_Column]:
    steps = [] if all(row.steps is None for row in rows) else [_Column("decoder\npasses", _passes)]
    return [
        *steps,
        _Column("parameters", lambda group: f"{group[0].parameters:,}"),
        _Column("sentences/s\nat batch 1", lambda group: _median([row.sentences_per_second_batch1 for row in group])),
        _Column("sentences/s\nfull batch", lambda group: _median([row.sentences_per_second_max for row in group])),
    ]


def _passes(group: Group) -> str:
    """Return the passes of a non-autoregressive decoder: mean over sentences, median over test sets and seeds."""
    counted = [row.steps for row in group if row.steps is not None]
    return _median(counted) if counted else ""


def _mean(values: Sequence[float], *, digits: int = 2) -> str:
    if not values:
        return ""
    mean, sd = mean_and_sd(values)
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f}"


def _p_values(comparisons: Iterable[Comparison], metric: str, group: Group) -> str:
    wanted = {_decoding_key(row) for row in group}
    values = [
        each.p_values[metric].value for each in comparisons if metric in each.p_values and _decoding_key(each) in wanted
    ]
    if not values:
        return ""
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low}–{high}"


def _decoding_key(entry: ScoreRow | Comparison) -> tuple[object, ...]:
    """Return the values by which a comparison belongs to a row."""
    way = (entry.beam, entry.iterations, entry.wait_k)
    return entry.system, entry.seed, entry.engine, *way, entry.compute_type


def score_notes(
    rows: Sequence[ScoreRow], comparisons: Sequence[Comparison], missing: Sequence[Missing], extra: ReportNotes
) -> list[str]:
    """Return the signatures of all scores in the tables, and notes on how the figures were measured."""
    signatures = []
    for name in _metric_names(rows):
        first = [row.scores[name] for row in rows if name in row.scores]
        second = [row.second_scores[name] for row in rows if name in row.second_scores]
        signatures += [(metric_label(name), score.signature) for score in first]
        signatures += [(_second_label(name), score.signature) for score in second]
    for name in (_main_metric(rows), *_external_names(rows)):
        p_label = f"p ({metric_label(name)}, paired bootstrap)"
        signatures += [(p_label, each.p_values[name].signature) for each in comparisons if name in each.p_values]
    notes = [f"{name}: {signature}" for name, signature in dict.fromkeys(signatures)]
    errors = dict.fromkeys(name for row in rows for name, score in row.scores.items() if not score.higher_is_better)
    notes += [f"{metric_label(name)} is a rate of errors: lower is better" for name in errors if name in METRICS]
    notes += [_external_note(name, rows) for name in _external_names(rows)]
    for name in _metric_names(rows):
        if name in extra.chose:
            what = "; ".join(extra.chose[name])
            notes.append(f"* {metric_label(name)} is no independent evidence where it chose what is scored: {what}")
    if any(row.latency is not None for row in rows):
        notes.append(
            f"AL, LAAL and DAL are delays in source words, AP a proportion of the source; lower is better ({SIGNATURE})"
        )
    if comparisons and extra.agreement.keys() & set(_metric_names(rows)):
        notes.append(
            "the share of people's judgements that agree with a difference is that of Kocmi et al. (2024), for systems "
            "of WMT; it does not replace p"
        )
    engines = {engine_name(row) for row in rows}
    if len(engines) == 1:
        notes.append(f"decoded with {engines.pop()}")
    notes += dict.fromkeys(
        f"checkpoint of {row.system}, seed {row.seed}: {_checkpoint_note(row.checkpoint)}"
        for row in rows
        if row.checkpoint is not None
    )
    if any(len({row.seed for row in group}) > 1 for group in group_rows(rows)):
        notes.append("± is the sample standard deviation over seeds; p is the range over seeds")
    if comparisons:
        notes.append(
            "p is one-tailed: the share of resampled test sets whose difference exceeds their mean by more than the "
            "observed one (two-sided at 5%: p < 0.025); 1 for equal scores"
        )
    notes += _engine_notes(rows)
    notes += [_missing_note(each) for each in missing]
    return notes


def _missing_note(missing: Missing) -> str:
    where = "" if missing.engine is None else f" in {missing.engine}"
    return f"missing: {missing.system} seed {missing.seed}{where}: {missing.missing}"


def _engine_notes(rows: Sequence[ScoreRow]) -> Iterator[str]:
    """Yield notes on how students were measured in engines, and warnings of large losses."""
    measured = [row for row in rows if row.deployment is not None]
    if measured:
        yield (
            "in engines: each in a process of its own; memory is the highest of the process with all libraries, those "
            "of kdmt's own search included; words are those of the source; a loss is that against the same student in "
            "PyTorch"
        )
    for row in measured:
        assert row.deployment is not None
        for problem in row.deployment.large_losses():
            yield f"warning: {row.system} seed {row.seed} on {row.test_set}, {row.deployment.engine}: {problem}"


def _external_note(name: str, rows: Iterable[ScoreRow]) -> str:
    """Return the direction and the range of an external scorer's scores."""
    score = next(row.scores[name] for row in rows if name in row.scores)
    low, high = ("no bound" if bound is None else f"{bound:g}" for bound in score.range)
    direction = "higher" if score.higher_is_better else "lower"
    return f"{name} is the mean of segment scores by an external scorer: {direction} is better, from {low} to {high}"


def _checkpoint_note(taken: TakenCheckpoint) -> str:
    """Return the checkpoint that was scored, and the validation scores by which it was chosen."""
    name = describe_updates(taken.name, taken.updates)
    if taken.of is None or taken.metric is None:
        return name
    if taken.of != "auto":
        return f"{name}, as 'average.of: {taken.of}' sets it"
    label = "loss" if taken.metric == "loss" else metric_label(taken.metric)
    digits = 3 if taken.metric == "loss" else 2
    scores = ", ".join(
        f"{candidate} {'none' if score is None else format(score, f'.{digits}f')}"
        for candidate, score in taken.candidates.items()
    )
    signature = "" if taken.signature is None else f" ({taken.signature})"
    return f"{name}, by validation {label}: {scores}{signature}"


# ------------------------------------------------------------------------------------------------------------- layout


def _text_table(content: _Table, *, ascii_only: bool) -> Table:
    header, figures = [each.header for each in content.columns], [each.is_figure for each in content.columns]
    return make_table(content.title, header, content.lines(), figures, ascii_only=ascii_only)


def _html_table(table: _Table) -> str:
    return table_html(
        table.title,
        [column.header for column in table.columns],
        table.lines(),
        [column.is_figure for column in table.columns],
    )
