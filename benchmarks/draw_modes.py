"""Draw the chart of `make bench-modes` for the documentation, from `benchmarks/results/modes.json`.

    make docs-images      (python benchmarks/draw_modes.py [--out docs/images])

modes-{light,dark}.svg    valid translations of each family on raw and on distilled text, in both languages

`make results` writes the table, which is in this module too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from draw_results import IMAGES, PALETTES, WIDTH, Palette, read_figures, svg_image, svg_legend, svg_text, svg_title
from figures import RESULTS

NO_RESULTS = "`make bench-modes` trains five families of students on both languages. There are no results yet."
ROWS = (
    ("ar", "ar", "`ar`"),
    ("dag", "dag", "`dag`"),
    ("ctc", "ctc", "`ctc`"),
    ("nat", "nat", "`nat`"),
    ("cmlm_{}_iter1", "cmlm, 1 iteration", "`cmlm`, 1 iteration"),
    ("cmlm_{}_iter4", "cmlm, 4", "`cmlm`, 4 iterations"),
    ("cmlm_{}_iter10", "cmlm, 10", "`cmlm`, 10 iterations"),
)  # name in the figures, label in the chart, label in the table
PANELS = (("two_mode", "two dialects"), ("three_mode", "three dialects"))
TEXTS = (("raw", "raw text"), ("distilled", "distilled text"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMAGES, help="Folder of the images (default: docs/images).")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="Folder of modes.json (default: benchmarks/results)."
    )
    options = parser.parse_args()
    if not (options.results / "modes.json").exists():
        print(NO_RESULTS)
        return
    figures = read_figures("modes", options.results)
    options.out.mkdir(parents=True, exist_ok=True)
    for palette in PALETTES:
        path = options.out / f"modes-{palette.name}.svg"
        path.write_text(modes_chart(figures, palette), encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- table

PICTURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="../images/modes-dark.svg">
  <img alt="Valid translations of students on raw and on distilled text" src="../images/modes-light.svg">
</picture>"""


def modes_table(figures: Mapping[str, float]) -> str:
    """Return the table of valid translations, in percent, with the standard deviation over the seeds."""
    columns = [f"{panel}, {text}" for _, panel in PANELS for text, _ in TEXTS]
    lines = [f"| valid translations in % | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for row, _, label in ROWS:
        cells = [_cell(figures, figure_name(prefix, row, text)) for prefix, _ in PANELS for text, _ in TEXTS]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    expected = f"{figures['three_mode_argmax_valid']:.1f}"
    lines.append(f"| expected: most probable word at each position | | | {expected} | |")
    expected_two, expected_three = (f"{figures[f'{prefix}_sampling_valid']:.1f}" for prefix, _ in PANELS)
    lines.append(f"| expected: each position sampled independently | {expected_two} | | {expected_three} | |")
    teachers = [f"{figures[f'{prefix}_distilled_text_valid']:.1f}" for prefix, _ in PANELS]
    lines.append(f"| the teacher's translations of the training set | | {teachers[0]} | | {teachers[1]} |")
    return "\n".join(lines)


def figure_name(prefix: str, row: str, text: str) -> str:
    """Return the name of the figure of a row, for example `two_mode_cmlm_raw_iter4_valid`."""
    system = row.format(text) if "{}" in row else f"{row}_{text}"
    return f"{prefix}_{system}_valid"


def _cell(figures: Mapping[str, float], name: str) -> str:
    deviation = figures.get(f"{name}_sd")
    return f"{figures[name]:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


# ----------------------------------------------------------------------------------------------------------- chart


@dataclass(frozen=True)
class _Axis:
    """Horizontal axis of one panel, from 0 to 100%."""

    left: float
    right: float

    def x(self, percent: float) -> float:
        return self.left + (self.right - self.left) * percent / 100


_BAR_HEIGHT, _ROW_GAP, _TOP = 14, 12, 96
_AXES = (_Axis(140, 416), _Axis(466, WIDTH - 18))


def modes_chart(figures: Mapping[str, float], palette: Palette) -> str:
    """Return bars of the valid translations, one panel for each language; whiskers are one standard deviation."""
    row_height = len(TEXTS) * _BAR_HEIGHT + _ROW_GAP
    bottom = _TOP + len(ROWS) * row_height
    parts = [
        *svg_title("Valid translations in two languages of known modes, in %", palette),
        *svg_legend([(label, getattr(palette, text)) for text, label in TEXTS], palette),
    ]
    for axis, (prefix, panel) in zip(_AXES, PANELS, strict=True):
        parts += _panel(axis, panel, bottom, palette)
        for number, (row, label, _) in enumerate(ROWS):
            top = _TOP + number * row_height
            if axis is _AXES[0]:
                parts.append(svg_text(axis.left - 10, top + _BAR_HEIGHT + 4, label, palette.ink, anchor="end"))
            for place, (text, _) in enumerate(TEXTS):
                name = figure_name(prefix, row, text)
                parts += _bar(axis, figures[name], figures.get(f"{name}_sd"), top + place * _BAR_HEIGHT, text, palette)
    parts += _expectation(_AXES[1], figures["three_mode_argmax_valid"], bottom, palette)
    return svg_image(parts, bottom + 44, "Valid translations of students on raw and on distilled text")


def _panel(axis: _Axis, label: str, bottom: float, palette: Palette) -> Iterator[str]:
    yield svg_text(axis.left, _TOP - 20, label, palette.ink)
    for percent in range(0, 101, 25):
        x = axis.x(percent)
        yield f'<path d="M{x:.1f},{_TOP - 8} V{bottom}" stroke="{palette.grid}"/>'
        yield svg_text(x, bottom + 16, str(percent), palette.muted, anchor="middle")


def _bar(
    axis: _Axis, percent: float, deviation: float | None, top: float, text: str, palette: Palette
) -> Iterator[str]:
    middle, width = top + _BAR_HEIGHT / 2, axis.x(percent) - axis.left
    exact = f"{percent:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")
    yield (
        f'<rect x="{axis.left}" y="{top + 1}" width="{width:.1f}" height="{_BAR_HEIGHT - 2}" '
        f'fill="{getattr(palette, text)}"><title>{exact}</title></rect>'
    )
    if deviation is not None:
        low, high = axis.x(max(percent - deviation, 0)), axis.x(min(percent + deviation, 100))
        yield f'<path d="M{low:.1f},{middle} H{high:.1f}" stroke="{palette.ink}" fill="none"/>'


def _expectation(axis: _Axis, percent: float, bottom: float, palette: Palette) -> Iterator[str]:
    x = axis.x(percent)
    yield f'<path d="M{x:.1f},{_TOP - 8} V{bottom}" stroke="{palette.ink}" stroke-dasharray="4 3"/>'
    label = f"expected for independent positions: {percent:.1f}%"
    yield svg_text(axis.left, bottom + 36, label, palette.muted)


if __name__ == "__main__":
    main()
