"""Charts of the report as SVG text, drawn with matplotlib, which is the extra `report`.

Text stays text, and all colours are variables of the page (`--ink`, `--muted`, `--grid`, `--series-0` ...), so that a
chart follows the light, dark and print colours. The same values give the same bytes.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from kdmt.score.pareto import Point, frontier
from kdmt.score.report_page.curves import Curve
from kdmt.score.report_page.directions import HeatMap
from kdmt.score.report_page.gaps import Gap
from kdmt.score.report_page.labels import Box, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

NUM_SERIES = 8  # number of colours of series; further series have the same colours and other lines or marks

# colours in the figures of matplotlib, which `_with_variables` replaces
_INK, _MUTED, _GRID = "#a10001", "#a10002", "#a10003"
_SERIES = tuple(f"#a2000{number}" for number in range(NUM_SERIES))
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid"}
_VARIABLES |= {color: f"--series-{number}" for number, color in enumerate(_SERIES)}

_WIDTH, _HEIGHT = 6.0, 3.8  # inches
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES: tuple[object, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_MAX_LABELS = 16  # of points
_RADIUS = 3.5  # of a point, in points
_PALEST, _DARKEST = 0.06, 0.6  # opacity of the cells of a heat map, on which the colour of text is legible
_SETTINGS: dict[str, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # it comes with matplotlib and is wide, so that labels of other fonts fit as well
    "font.size": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_UNUSED_IDS = re.compile(r' id="[A-Za-z.]*[A-Za-z]2?d?_[0-9]+"')  # such as `axes_1`; others are referred to
_FONT = re.compile(r"'DejaVu Sans'(?:, [^;\"]*)?")


@dataclass(frozen=True)
class Mark:
    """A point of a plot of quality against a cost.

    Attributes:
        system: name of the system, which has one colour.
        engine: engine, which has one shape.
        label: label, which is shown unless it would overlap another; a tooltip always has it with the values.
        cost: value on the x axis, above 0.
        score: value on the y axis.
        is_chosen: whether it is the recommended student.
    """

    system: str
    engine: str
    label: str
    cost: float
    score: float
    is_chosen: bool = False


def has_charts() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


# -------------------------------------------------------------------------------------------------------------- charts


def quality_chart(marks: Sequence[Mark], *, cost_label: str, score_label: str, name: str, more_is_better: bool) -> str:
    """Return a plot of scores against a cost on a logarithmic axis, with a line through the Pareto frontier.

    Args:
        marks: one or more points.
        cost_label, score_label: labels of the axes, with their units.
        name: name of the chart, which is different for each chart of a page.
        more_is_better: whether higher values of the cost are better, as of speeds.
    """
    colors = _colors(mark.system for mark in marks)
    shapes = dict(zip(dict.fromkeys(mark.engine for mark in marks), _MARKS * len(marks), strict=False))
    best = _frontier(marks, more_is_better=more_is_better)
    with _figure(name) as (figure, axes):
        axes.set_xscale("log")
        axes.set_xlabel(cost_label)
        axes.set_ylabel(score_label)
        _plain_ticks(axes)
        axes.margins(0.16, 0.16)
        axes.plot(
            [mark.cost for mark in best],
            [mark.score for mark in best],
            color=_MUTED,
            linewidth=1,
            linestyle=(0, (4, 3)),
        )
        tooltips = {}
        for number, mark in enumerate(marks):
            (drawn,) = axes.plot(
                [mark.cost],
                [mark.score],
                marker=shapes[mark.engine],
                markersize=2 * _RADIUS,
                color=colors[mark.system],
                markeredgecolor=_INK if mark.is_chosen else colors[mark.system],
                markeredgewidth=2 if mark.is_chosen else 0.5,
                linestyle="none",
            )
            drawn.set_gid(f"{name}-{number}")
            tooltips[f"{name}-{number}"] = f"{mark.label}: {mark.score:.2f}, {cost_label} {mark.cost:,.4g}"
        if len(shapes) > 1:
            _shape_legend(figure, axes, shapes)
        _write_labels(figure, axes, _by_priority(marks, best))
        return _svg(figure, tooltips, f"{score_label} against {cost_label}")


def curves_chart(
    curves: Sequence[Curve], dashed: Sequence[Curve] = (), *, label: str, name: str, is_loss: bool = False
) -> str:
    """Return curves over updates: means over seeds, with a band from the lowest to the highest seed.

    Args:
        curves: curves with full lines.
        dashed: further curves of the same systems with dashed, thin lines.
        label: label of the y axis.
        name: name of the chart.
        is_loss: whether lower values are better; high values of the first updates are cut off.
    """
    colors = _colors(curve.system for curve in (*curves, *dashed))
    styles = _styles(colors)
    entries: list[tuple[Line2D, str]] = []
    with _figure(name, legend=len(colors)) as (figure, axes):
        axes.set_xlabel("updates")
        axes.set_ylabel(label)
        for curve in dashed:
            axes.plot(curve.updates, curve.means, color=colors[curve.system], linewidth=0.8, linestyle=(0, (2, 2)))
        for curve in curves:
            color, style = colors[curve.system], styles[curve.system]
            (line,) = axes.plot(curve.updates, curve.means, color=color, linewidth=1.6, linestyle=style)
            if curve.num_seeds > 1:
                axes.fill_between(curve.updates, curve.lowest, curve.highest, color=color, alpha=0.2, linewidth=0)
            entries.append((line, curve.system + (f" ({curve.num_seeds} seeds)" if curve.num_seeds > 1 else "")))
        if is_loss:
            values = sorted(value for curve in curves for value in curve.means) or [0.0]
            axes.set_ylim(top=min(axes.get_ylim()[1], values[0] + 4 * (values[len(values) // 2] - values[0]) + 0.5))
        _legend(figure, entries)
        return _svg(figure, {}, f"{label} over updates")


def histogram_chart(edges: Sequence[float], counts: Sequence[int], *, label: str, unit: str, name: str) -> str:
    """Return a histogram; `edges` has one value more than `counts`."""
    with _figure(name, height=2.8) as (figure, axes):
        widths = [high - low for low, high in pairwise(edges)]
        bars = axes.bar(edges[:-1], counts, widths, align="edge", color=_SERIES[0], edgecolor="none")
        tooltips = {}
        for number, bar in enumerate(bars):
            bar.set_gid(f"{name}-{number}")
            tooltips[f"{name}-{number}"] = f"{edges[number]:.4g} to {edges[number + 1]:.4g}: {counts[number]:,}"
        axes.set_xlabel(label)
        axes.set_ylabel(unit)
        axes.grid(visible=False, axis="x")
        return _svg(figure, tooltips, f"histogram of {label}")


def bars_chart(values: Mapping[str, float], *, label: str, name: str) -> str:
    """Return horizontal bars, one for each name, with their values."""
    from matplotlib.ticker import MaxNLocator

    with _figure(name, height=1.0 + 0.26 * len(values)) as (figure, axes):
        names = list(values)
        bars = axes.barh(names[::-1], [values[each] for each in names[::-1]], color=_SERIES[0], height=0.6)
        axes.bar_label(bars, fmt=lambda value: f"{value:,.0f}", padding=3, color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(label)
        axes.margins(x=0.15)
        axes.grid(visible=False, axis="y")
        return _svg(figure, {}, label)


def gaps_chart(gaps: Sequence[Gap], labels: Sequence[str], *, unit: str, name: str) -> str:
    """Return differences with their intervals, one line for each; `labels` are those of the lines."""
    with _figure(name, height=1.0 + 0.28 * len(gaps)) as (figure, axes):
        axes.axvline(0.0, color=_MUTED, linewidth=1)
        for place, gap in enumerate(reversed(gaps)):
            axes.plot([gap.low, gap.high], [place, place], color=_SERIES[0], linewidth=2)
            axes.plot([gap.difference], [place], color=_SERIES[0], marker="o", markersize=6)
        axes.set_yticks(range(len(gaps)), list(reversed(labels)))
        axes.set_ylim(-0.7, len(gaps) - 0.3)
        axes.set_xlabel(f"difference in {unit}")
        axes.grid(visible=False, axis="y")
        return _svg(figure, {}, f"differences in {unit} with intervals")


def kinds_chart(
    kinds: Sequence[str], scores: Mapping[str, Sequence[float | None]], *, label: str, name: str, joined: bool
) -> str:
    """Return the scores of systems by kind of sentence.

    Args:
        kinds: kinds of sentences [K].
        scores: system -> score of each kind [K]; None where it has none.
        label: label of the scores.
        name: name of the chart.
        joined: whether the kinds have an order, so that the scores of a system are joined by a line.
    """
    colors = _colors(scores)
    styles = _styles(colors)
    entries: list[tuple[Line2D, str]] = []
    with _figure(name, legend=len(colors)) as (figure, axes):
        for system, values in scores.items():
            known = [(place, value) for place, value in enumerate(values) if value is not None]
            (line,) = axes.plot(
                [place for place, _ in known],
                [value for _, value in known],
                color=colors[system],
                marker=_MARKS[list(scores).index(system) % len(_MARKS)],
                markersize=5,
                linewidth=1.4,
                linestyle=styles[system] if joined else "none",
            )
            entries.append((line, system))
        axes.set_xticks(range(len(kinds)), list(kinds))
        axes.set_xlim(-0.4, len(kinds) - 0.6)
        axes.set_ylabel(label)
        _legend(figure, entries)
        return _svg(figure, {}, f"{label} by kind of sentence")


def heat_map_chart(values: HeatMap, *, name: str) -> str:
    """Return a heat map: a row for each source language, a column for each target language, a figure in each cell."""
    from matplotlib.patches import Rectangle

    num_rows, num_columns = len(values.sources), len(values.targets)
    size = min(9.5, 9.5 * 11 / num_columns)
    with _figure(name, height=1.1 + 0.36 * num_rows) as (figure, axes):
        axes.set_xlim(-0.5, num_columns - 0.5)
        axes.set_ylim(num_rows - 0.5, -0.5)
        axes.set_xticks(range(num_columns), values.targets, fontsize=size)
        axes.set_yticks(range(num_rows), values.sources, fontsize=size)
        axes.tick_params(length=0, labelbottom=False, labeltop=True)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel(f"{values.label}: {values.metric}")
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        tooltips = {}
        for number, (cell, value) in enumerate(values.values.items()):
            column, row = values.targets.index(cell[1]), values.sources.index(cell[0])
            is_untrained = cell in values.zero_shot
            strength = _PALEST + (_DARKEST - _PALEST) * values.strength(cell)
            corner, figure_text = (column - 0.47, row - 0.46), f"{value:.{values.digits}f}"
            colored = Rectangle(corner, 0.94, 0.92, facecolor=_SERIES[0], alpha=strength, linewidth=0)
            colored.set_gid(f"{name}-{number}")
            axes.add_patch(colored)
            if is_untrained:
                axes.add_patch(
                    Rectangle(corner, 0.94, 0.92, fill=False, edgecolor=_INK, linewidth=1, linestyle=(0, (3, 2)))
                )
            axes.text(column, row, figure_text, ha="center", va="center", color=_INK, fontsize=size)
            note = " (zero-shot)" if is_untrained else ""
            tooltips[f"{name}-{number}"] = f"{cell[0]} to {cell[1]}{note}: {figure_text}"
        return _svg(figure, tooltips, f"{values.metric} of {values.label} by source and target language")


# --------------------------------------------------------------------------------------------------------------- parts


@contextmanager
def _figure(name: str, *, height: float = _HEIGHT, legend: int = 0) -> Iterator[tuple[Figure, Axes]]:
    """Provide a figure with one plot; its settings apply in the body.

    Args:
        name: name of the chart, from which identifiers inside the SVG are computed.
        height: height in inches.
        legend: number of entries of a legend below the plot, for which the figure becomes higher.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as glyphs that the font for measuring does not have
        matplotlib.rcdefaults()  # so that the settings of the user do not change the chart
        matplotlib.rcParams.update(cast("Any", {**_SETTINGS, "svg.hashsalt": name}))
        height += 0.2 * (-(-legend // 3))
        figure = Figure(figsize=(_WIDTH, height), dpi=72, layout="constrained")
        FigureCanvasAgg(figure)  # measures text
        yield figure, figure.subplots()


def _colors(names: Iterator[str] | Sequence[str] | Mapping[str, object]) -> dict[str, str]:
    """Return the colour of each name, in order of first appearance."""
    return {name: _SERIES[place % NUM_SERIES] for place, name in enumerate(dict.fromkeys(names))}


def _styles(names: Mapping[str, object]) -> dict[str, object]:
    """Return the line of each name; it differs between names with the same colour."""
    return {name: _DASHES[place // NUM_SERIES % len(_DASHES)] for place, name in enumerate(names)}


def _frontier(marks: Sequence[Mark], *, more_is_better: bool) -> list[Mark]:
    """Return the points that no other point dominates."""
    points = {
        Point(str(place), mark.cost if more_is_better else 1 / mark.cost, mark.score): mark
        for place, mark in enumerate(marks)
    }
    return [points[point] for point in frontier(list(points))]


def _by_priority(marks: Sequence[Mark], best: Sequence[Mark]) -> list[Mark]:
    """Return the points by the priority of their labels: the recommended one, the frontier, one of each system."""
    highest = sorted(marks, key=lambda mark: -mark.score)
    first = {mark.system: mark for mark in reversed(highest)}
    return sorted(highest, key=lambda mark: (not mark.is_chosen, mark not in best, mark is not first[mark.system]))


def _plain_ticks(axes: Axes) -> None:
    """Label the x axis with 1, 2 and 5 times powers of ten, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _shape_legend(figure: Figure, axes: Axes, shapes: Mapping[str, str]) -> None:
    entries = []
    for engine, shape in shapes.items():
        (line,) = axes.plot([], [], marker=shape, color=_MUTED, linestyle="none")
        entries.append((line, engine))
    _legend(figure, entries)


def _legend(figure: Figure, entries: Sequence[tuple[Line2D, str]]) -> None:
    """Add a legend below the plot with a line and a label for each entry."""
    if not entries:
        return
    handles = [handle for handle, _ in entries]
    # with numbers first: matplotlib leaves labels out that begin with an underscore
    numbers = [str(number) for number in range(len(entries))]
    legend = figure.legend(handles, numbers, loc="outside lower center", ncols=min(3, len(entries)))
    for text, (_, label) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(label)


def _write_labels(figure: Figure, axes: Axes, marks: Sequence[Mark]) -> None:
    """Write the label of each point that has a free place for it, with a line to the point if it is not next to it."""
    figure.draw_without_rendering()  # fixes the layout
    figure.set_layout_engine("none")
    frame = axes.get_window_extent()
    bounds = Box(frame.x0, frame.y0, frame.x1, frame.y1)
    to_display = axes.transData
    points = [(float(x), float(y)) for x, y in to_display.transform([(mark.cost, mark.score) for mark in marks])]
    texts = [figure.text(0, 0, mark.label, fontsize=9, va="center", ha="center") for mark in marks[:_MAX_LABELS]]
    sizes = [(extent.width + 2, extent.height) for extent in (text.get_window_extent() for text in texts)]
    places = place_labels(points, sizes, bounds=bounds, radius=_RADIUS)
    to_figure = figure.transFigure.inverted()
    for (x, y), text, box in zip(points, texts, places, strict=False):
        if box is None:
            text.remove()
            continue
        center = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
        text.set_position(tuple(to_figure.transform(center)))
        nearest = (min(max(x, box.left), box.right), min(max(y, box.bottom), box.top))
        if abs(nearest[0] - x) + abs(nearest[1] - y) > 3 * _RADIUS:
            ends = to_figure.transform([(x, y), nearest]).tolist()
            figure.add_artist(_line(figure, ends))


def _line(figure: Figure, ends: Sequence[Sequence[float]]) -> Line2D:
    from matplotlib.lines import Line2D

    (x0, y0), (x1, y1) = ends
    return Line2D([x0, x1], [y0, y1], transform=figure.transFigure, color=_MUTED, linewidth=0.6)


def _svg(figure: Figure, tooltips: Mapping[str, str], description: str) -> str:
    """Return the SVG element of a figure: no header, no date, no fonts, colours as variables."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    drawn = io.StringIO()
    FigureCanvasSVG(figure).print_svg(drawn, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _UNUSED_IDS.sub("", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    text = _FONT.sub("inherit", text)
    for identifier, tooltip in tooltips.items():
        opening = f'<g id="{identifier}">'
        text = text.replace(opening, f"<g>\n<title>{html.escape(tooltip)}</title>", 1)
    return text
