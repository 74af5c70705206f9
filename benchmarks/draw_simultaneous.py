"""Draw the chart of `make bench-simultaneous` for the documentation, from `benchmarks/results/simultaneous.json`.

    make docs-images      (python benchmarks/draw_simultaneous.py [--out docs/images])

simultaneous-{light,dark}.svg    BLEU against average lagging, on raw and on distilled text
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from draw_results import IMAGES, PALETTES, WIDTH, Palette, read_figures, svg_image, svg_legend, svg_text, svg_title
from figures import RESULTS

NO_RESULTS = "`make bench-simultaneous` trains wait-k and streaming students. There are no results yet."
KINDS = (
    ("wait", "trained with wait-k"),
    ("whole", "trained on whole sentences"),
    ("chunk", "ctc in chunks"),
)  # name in the figures, label
TEXTS = (("raw", "raw text"), ("distilled", "distilled text"))
_DASHES = {"wait": "", "whole": "6 4", "chunk": ""}
_POINT = re.compile(r"(?P<kind>[a-z]+)_(?P<text>[a-z]+)_(?P<way>wait[0-9]+|chunk)_al")
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, WIDTH - 18.0, 84.0, 400.0
_TICKS = 5

PICTURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="../images/simultaneous-dark.svg">
  <img alt="BLEU against average lagging of simultaneous students" src="../images/simultaneous-light.svg">
</picture>"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMAGES, help="Folder of the images (default: docs/images).")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="Folder of simultaneous.json (default: benchmarks/results)."
    )
    options = parser.parse_args()
    if not (options.results / "simultaneous.json").exists():
        print(NO_RESULTS)
        return
    figures = read_figures("simultaneous", options.results)
    options.out.mkdir(parents=True, exist_ok=True)
    for palette in PALETTES:
        path = options.out / f"simultaneous-{palette.name}.svg"
        path.write_text(simultaneous_chart(figures, palette), encoding="utf-8")


@dataclass(frozen=True)
class Point:
    """A way of decoding: latency in source words, BLEU and its standard deviation over the seeds."""

    way: str
    lagging: float
    bleu: float
    deviation: float | None

    @property
    def label(self) -> str:
        return self.way.removeprefix("wait")


def points_of(figures: Mapping[str, float]) -> dict[tuple[str, str], list[Point]]:
    """Return the points of each kind of student and text, by ascending latency."""
    found: dict[tuple[str, str], list[Point]] = {}
    for name, lagging in figures.items():
        if (match := _POINT.fullmatch(name)) is None:
            continue
        start = name.removesuffix("_al")
        point = Point(match["way"], lagging, figures[f"{start}_bleu"], figures.get(f"{start}_bleu_sd"))
        found.setdefault((match["kind"], match["text"]), []).append(point)
    return {key: sorted(points, key=lambda point: point.lagging) for key, points in found.items()}


# ----------------------------------------------------------------------------------------------------------- table


def simultaneous_table(figures: Mapping[str, float]) -> str:
    """Return the table of BLEU and latency."""
    lines = ["| student | text | k | BLEU | AL | LAAL | AP | DAL |", "| --- |" + " --- |" * 7]
    for (kind, text), points in points_of(figures).items():
        for point in points:
            start = f"{kind}_{text}_{point.way}"
            deviation = "" if point.deviation is None else f" ± {point.deviation:.1f}"
            latency = [f"{figures[f'{start}_{metric}']:.2f}" for metric in ("al", "laal", "ap", "dal")]
            label, way = dict(KINDS)[kind], "" if kind == "chunk" else point.label
            lines.append(f"| {label} | {text} | {way} | {point.bleu:.1f}{deviation} | {' | '.join(latency)} |")
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------- chart


@dataclass(frozen=True)
class _Scale:
    """Linear scale from values to a coordinate."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        margin = (max(values) - min(values)) * 0.08 or 1.0
        return cls(min(values) - margin, max(values) + margin, start, end)

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        return [self.low + (self.high - self.low) * number / _TICKS for number in range(_TICKS + 1)]


def simultaneous_chart(figures: Mapping[str, float], palette: Palette) -> str:
    """Return BLEU against average lagging: a line for each kind of student and text, a point for each k."""
    found = points_of(figures)
    every = [point for points in found.values() for point in points]
    x = _Scale.around([point.lagging for point in every], _LEFT, _RIGHT)
    y = _Scale.around([point.bleu for point in every], _BOTTOM, _TOP)
    parts = [
        *svg_title("Quality against latency of simultaneous translation", palette),
        *svg_legend([(label, getattr(palette, text)) for text, label in TEXTS], palette),
        *_axes(x, y, palette),
    ]
    for (kind, text), points in found.items():
        parts += _line(points, x, y, kind, getattr(palette, text), palette)
    note = "solid: trained with wait-k; dashed: on whole sentences; squares: ctc in chunks; numbers are k"
    parts.append(svg_text(_LEFT, _BOTTOM + 52, note, palette.muted))
    return svg_image(parts, _BOTTOM + 68, "BLEU against average lagging of simultaneous students")


def _axes(x: _Scale, y: _Scale, palette: Palette) -> Iterator[str]:
    for value in x.ticks():
        yield svg_text(x.at(value), _BOTTOM + 18, f"{value:.1f}", palette.muted, anchor="middle")
    for value in y.ticks():
        yield f'<path d="M{_LEFT},{y.at(value):.1f} H{_RIGHT}" stroke="{palette.grid}"/>'
        yield svg_text(_LEFT - 8, y.at(value) + 4, f"{value:.1f}", palette.muted, anchor="end")
    yield svg_text(_LEFT, _TOP - 14, "BLEU", palette.ink)
    yield svg_text(_RIGHT, _BOTTOM + 36, "average lagging in source words", palette.ink, anchor="end")


def _line(points: Sequence[Point], x: _Scale, y: _Scale, kind: str, colour: str, palette: Palette) -> Iterator[str]:
    way = " L".join(f"{x.at(point.lagging):.1f},{y.at(point.bleu):.1f}" for point in points)
    yield f'<path d="M{way}" stroke="{colour}" stroke-width="2" stroke-dasharray="{_DASHES[kind]}" fill="none"/>'
    for point in points:
        across, down = x.at(point.lagging), y.at(point.bleu)
        exact = f"<title>{kind}, {point.way}: BLEU {point.bleu:.2f}, AL {point.lagging:.2f}</title>"
        if kind == "chunk":
            yield f'<rect x="{across - 5:.1f}" y="{down - 5:.1f}" width="10" height="10" fill="{colour}">{exact}</rect>'
            continue
        yield f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}">{exact}</circle>'
        yield svg_text(across, down - 9, point.label, palette.muted, anchor="middle", size=11)


if __name__ == "__main__":
    main()
