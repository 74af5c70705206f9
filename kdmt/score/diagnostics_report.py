"""Presentation of diagnostics.json: tables for the terminal, and a section of the HTML report.

Figures are the lines of a table and systems the columns, so that teacher, raw and distilled students can be compared.
Each system appears with its first way of decoding.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console

from kdmt.html_page import table_html
from kdmt.score.metrics import metric_label
from kdmt.score.significance import mean_and_sd
from kdmt.score.system_diagnostics import (
    FIGURES,
    KIND_FIGURES,
    REFERENCE,
    DiagnosticsRow,
    Example,
    KindScores,
    SystemDiagnostics,
)
from kdmt.score.text_table import draw, make_table

_COLUMN = 15  # characters of a column of figures, for the number of systems in a table
_LABEL = 32
_PROBLEMS = {
    "oscillating": "Oscillating hallucinations",
    "detached": "One output for several sources",
    "copies": "Copies of the source",
    "untranslated": "Untranslated words",
    "omitted": "Omitted words",
    "replicated": "Replicated training targets",
    "extracted": "Training targets from at most 75% of the source",
}

Group = list[DiagnosticsRow]  # rows that differ only in the seed


@dataclass(frozen=True)
class _Table:
    title: str
    systems: list[str]
    lines: list[list[str]]  # label, and a cell for each system


def diagnostics_text(found: SystemDiagnostics, *, width: int = 100, ascii_only: bool = False) -> str:
    """Return the diagnostics as plain text: tables, examples, and the meaning of the figures.

    Args:
        width: number of columns of the terminal; more systems than fit are shown in further tables.
        ascii_only: whether to use only ASCII for lines and signs.
    """
    at_once = max(1, (width - _LABEL) // _COLUMN)

    def write(console: Console) -> None:
        for whole in _tables(found):
            for table in _split(whole, at_once):
                header, figures = ["", *table.systems], [False, *(True for _ in table.systems)]
                console.print(table.title, soft_wrap=True, markup=False, highlight=False)
                drawn = make_table("", header, table.lines, figures, ascii_only=ascii_only)
                console.print(drawn, crop=False)
                console.print()
        for line in (*_example_lines(found.examples), *_notes(found)):
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    return draw(write, width=width, ascii_only=ascii_only)


def diagnostics_html(found: SystemDiagnostics) -> str:
    """Return the diagnostics as HTML: a heading, tables, examples, and the meaning of the figures."""
    parts = ["<h2>Diagnostics</h2>"]
    parts += [
        table_html(table.title, ["", *table.systems], table.lines, [False, *(True for _ in table.systems)])
        for table in _tables(found)
    ]
    for problem, examples in _by_problem(found.examples):
        parts.append(f"<h3>{html.escape(_PROBLEMS[problem])}</h3>")
        parts += [
            table_html(_place(same), ["", ""], _example_cells(same[0]), [False, False]) for same in _by_line(examples)
        ]
    parts += [f"<p><code>{html.escape(note)}</code></p>" for note in _notes(found)]
    return "\n".join(parts)


# -------------------------------------------------------------------------------------------------------------- tables


def _tables(found: SystemDiagnostics) -> Iterator[_Table]:
    for test_set in dict.fromkeys(row.test_set for row in found.rows):
        groups = _groups([row for row in found.rows if row.test_set == test_set])
        systems = [_name(group) for group in groups]
        lines = [_figure_line(name, groups) for name in FIGURES]
        yield _Table(f"diagnostics of {test_set}", systems, [line for line in lines if any(line[1:])])
        labels = {name: FIGURES[name].label for name in KIND_FIGURES}
        groups = [group for group in groups if group[0].system != REFERENCE]
        for name, label in {"score": metric_label(found.score), **labels}.items():
            lines = list(_kind_lines(name, groups))
            if any(cell not in ("", "0.0") for line in lines for cell in line[1:]):
                yield _Table(f"{label} by kind of sentence, {test_set}", list(map(_name, groups)), lines)


def _groups(rows: Sequence[DiagnosticsRow]) -> list[Group]:
    """Return the rows of each system with its first way of decoding; the references come first."""
    first: dict[str, tuple[int, int | None]] = {}
    groups: dict[str, Group] = {}
    for row in sorted(rows, key=lambda row: row.system != REFERENCE):
        if first.setdefault(row.system, (row.beam, row.iterations)) == (row.beam, row.iterations):
            groups.setdefault(row.system, []).append(row)
    return list(groups.values())


def _name(group: Group) -> str:
    row = group[0]
    if row.system == REFERENCE:
        return row.system
    return f"{row.system}\n" + (f"beam {row.beam}" if row.iterations is None else f"{row.iterations} it.")


def _figure_line(name: str, groups: Sequence[Group]) -> list[str]:
    figure = FIGURES[name]
    cells = [_mean([row.figures.get(name) for row in group], figure.digits) for group in groups]
    return [f"{figure.label} ({figure.unit})", *cells]


def _kind_lines(name: str, groups: Sequence[Group]) -> Iterator[list[str]]:
    def value(of: KindScores | None) -> float | None:
        if of is None:
            return None
        return of.score if name == "score" else of.figures.get(name)

    sizes = {kind: scores.sentences for group in groups for row in group for kind, scores in row.kinds.items()}
    for kind, size in sizes.items():
        cells = [_mean([value(row.kinds.get(kind)) for row in group], 1) for group in groups]
        yield [f"{kind} ({size:,})", *cells]


def _mean(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean, sd = mean_and_sd(known)
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _split(table: _Table, at_once: int) -> Iterator[_Table]:
    for start in range(0, len(table.systems), at_once):
        lines = [[line[0], *line[1 + start : 1 + start + at_once]] for line in table.lines]
        yield _Table(table.title, table.systems[start : start + at_once], lines)


# ------------------------------------------------------------------------------------------------------------ examples


def _by_problem(examples: Sequence[Example]) -> Iterator[tuple[str, list[Example]]]:
    for problem in _PROBLEMS:
        chosen = [each for each in examples if each.problem == problem]
        if chosen:
            yield problem, chosen


def _by_line(examples: Sequence[Example]) -> list[list[Example]]:
    """Return the examples of each line, which are those of several systems."""
    found: dict[tuple[str, int], list[Example]] = {}
    for each in examples:
        found.setdefault((each.text, each.line), []).append(each)
    return list(found.values())


def _place(same: Sequence[Example]) -> str:
    systems = [f"{each.system}: {each.note}" if each.note else each.system for each in same]
    return f"{same[0].text} line {same[0].line}, {'; '.join(systems)}"


def _example_cells(example: Example) -> list[list[str]]:
    return [["source", example.source], ["reference", example.reference], *map(list, example.outputs.items())]


def _example_lines(examples: Sequence[Example]) -> Iterator[str]:
    for problem, chosen in _by_problem(examples):
        yield f"{_PROBLEMS[problem]}:"
        for same in _by_line(chosen):
            yield f"  {_place(same)}"
            cells = _example_cells(same[0])
            widest = max(len(name) for name, _ in cells)
            yield from (f"    {name:<{widest}}  {text}" for name, text in cells)
        yield ""


def _notes(found: SystemDiagnostics) -> list[str]:
    shown = [name for name in FIGURES if any(row.figures.get(name) is not None for row in found.rows)]
    notes = [f"{FIGURES[name].label}: {FIGURES[name].meaning}" for name in shown]
    notes.append(f"alignment learnt from {found.training_pairs:,} training pairs")
    if found.training_sentences:
        notes.append(f"training figures of {found.training_sentences:,} training sentences, spread over the corpus")
    else:
        notes.append("no training sentences were translated: set score.diagnostics.train_sentences for replication")
    return notes
