"""Draw the charts of the documentation from `benchmarks/results/*.json`, each for a light and a dark background.

    make docs-images      (python benchmarks/draw_results.py [--out docs/images])

students-bleu-{light,dark}.svg    BLEU of teacher, raw student and distilled student (`make bench-multi30k`)
students-speed-{light,dark}.svg   BLEU against speed at batch size 1 (`make bench-students`)
"""

from __future__ import annotations

import argparse
import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import REPOSITORY, RESULTS

IMAGES = REPOSITORY / "docs" / "images"
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13"'
WIDTH = 760


@dataclass(frozen=True)
class Palette:
    """Colours for one background; the contrast of every text colour to the background is at least 4.5."""

    name: str
    ink: str
    muted: str
    grid: str
    teacher: str
    raw: str
    distilled: str
    parallel: str  # non-autoregressive students


PALETTES = (
    Palette("light", "#1f2328", "#59636e", "#d1d9e0", "#6e7781", "#b35900", "#0550ae", "#116329"),
    Palette("dark", "#f0f6fc", "#9198a1", "#3d444d", "#9198a1", "#f0a050", "#58a6ff", "#56d364"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMAGES, help="Folder of the images (default: docs/images).")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    multi30k, students = read_figures("multi30k"), read_figures("students")
    for palette in PALETTES:
        (out / f"students-bleu-{palette.name}.svg").write_text(bleu_chart(multi30k, palette), encoding="utf-8")
        (out / f"students-speed-{palette.name}.svg").write_text(speed_chart(students, palette), encoding="utf-8")


def read_figures(bench: str, results_dir: Path = RESULTS) -> dict[str, float]:
    """Return the figures of a benchmark, by name."""
    result = json.loads((results_dir / f"{bench}.json").read_text(encoding="utf-8"))
    return {figure["name"]: figure["value"] for figure in result["figures"]}


# ------------------------------------------------------------------------------------------------ BLEU of students

GROUPS = (
    ("test_2016_flickr", 1, "test_2016_flickr, greedy"),
    ("test_2016_flickr", 5, "test_2016_flickr, beam 5"),
    ("test_2017_flickr", 1, "test_2017_flickr, greedy"),
    ("test_2017_flickr", 5, "test_2017_flickr, beam 5"),
)
SYSTEMS = (
    ("raw", "student on raw data"),
    ("distilled", "student on distilled data"),
    ("teacher", "teacher (2.9 times the parameters)"),
)
_BARS_LEFT, _BAR_HEIGHT, _GROUP_GAP, _BARS_TOP = 190, 18, 20, 74
_BARS_RIGHT = WIDTH - 110
_MOST_BLEU = 45.0


def bleu_chart(figures: Mapping[str, float], palette: Palette) -> str:
    """Return a bar chart of BLEU for each test set and way of decoding; whiskers are one standard deviation."""
    group_height = len(SYSTEMS) * _BAR_HEIGHT + _GROUP_GAP
    height = _BARS_TOP + len(GROUPS) * group_height + 26
    parts = [
        *svg_title("Multi30k en-de: BLEU of the same small student on raw and on distilled data", palette),
        *svg_legend([(text, getattr(palette, system)) for system, text in SYSTEMS], palette),
        *_bleu_axis(_BARS_TOP - 8, height - 30, palette),
    ]
    for number, (test_set, beam, label) in enumerate(GROUPS):
        top = _BARS_TOP + number * group_height
        middle = top + len(SYSTEMS) * _BAR_HEIGHT / 2
        parts.append(svg_text(_BARS_LEFT - 10, middle + 4, label, palette.ink, anchor="end"))
        for row, (system, _) in enumerate(SYSTEMS):
            name = f"{system}_{test_set}_beam{beam}_bleu"
            parts += _bar(figures[name], figures.get(f"{name}_sd"), top + row * _BAR_HEIGHT, system, palette)
    return svg_image(
        parts, height, "BLEU of a student on raw data, the same student on distilled data, and the teacher"
    )


def _bar(bleu: float, deviation: float | None, top: float, system: str, palette: Palette) -> Iterator[str]:
    end, middle = _bleu_x(bleu), top + _BAR_HEIGHT / 2
    width, colour = end - _BARS_LEFT, getattr(palette, system)
    yield f'<rect x="{_BARS_LEFT}" y="{top + 2}" width="{width:.1f}" height="{_BAR_HEIGHT - 4}" fill="{colour}"/>'
    if deviation is None:
        yield svg_text(end + 8, middle + 4, f"{bleu:.2f}", palette.ink)
        return
    low, high = _bleu_x(bleu - deviation), _bleu_x(bleu + deviation)
    yield (
        f'<path d="M{low:.1f},{middle} H{high:.1f} M{low:.1f},{middle - 3} v6 M{high:.1f},{middle - 3} v6" '
        f'stroke="{palette.ink}" fill="none"/>'
    )
    yield svg_text(high + 8, middle + 4, f"{bleu:.2f} ± {deviation:.2f}", palette.ink)


def _bleu_axis(top: float, bottom: float, palette: Palette) -> Iterator[str]:
    for bleu in range(0, int(_MOST_BLEU) + 1, 10):
        x = _bleu_x(bleu)
        yield f'<path d="M{x:.1f},{top} V{bottom}" stroke="{palette.grid}"/>'
        yield svg_text(x, bottom + 16, str(bleu), palette.muted, anchor="middle")
    yield svg_text(_bleu_x(_MOST_BLEU), bottom + 16, "BLEU", palette.muted, anchor="middle")


def _bleu_x(bleu: float) -> float:
    return _BARS_LEFT + (_BARS_RIGHT - _BARS_LEFT) * bleu / _MOST_BLEU


# ------------------------------------------------------------------------------------------------ BLEU against speed


@dataclass(frozen=True)
class Point:
    """A system in the chart; `dx` and `dy` are the offset of its label."""

    name: str  # in the names of its figures
    label: str
    kind: str  # attribute of `Palette` with its colour
    dx: float = 8
    dy: float = 4
    anchor: str = "start"


POINTS = (
    Point("teacher_torch_beam5", "beam 5", "teacher", 0, -10, "middle"),
    Point("teacher_torch_greedy", "greedy", "teacher", 0, 18, "middle"),
    Point("teacher_ct2_beam5", "CTranslate2, beam 5", "teacher", -4, -10, "end"),
    Point("teacher_ct2_greedy", "CTranslate2, greedy", "teacher", -4, 18, "middle"),
    Point("teacher_ct2_int8_beam5", "int8, beam 5", "teacher", 2, -10, "middle"),
    Point("teacher_ct2_int8_greedy", "int8, greedy", "teacher", 8, -6),
    Point("deep_shallow_torch_greedy", "greedy", "distilled", 0, 18, "middle"),
    Point("deep_shallow_ct2_greedy", "CTranslate2, greedy", "distilled", -8, 4, "end"),
    Point("deep_shallow_ct2_int8_greedy", "int8, greedy", "distilled", 6, -8, "middle"),
    Point("ctc", "ctc", "parallel", -8, 4, "end"),
    Point("ctc_onnx", "ctc, ONNX Runtime", "parallel", -8, 4, "end"),
    Point("ctc_glat_onnx", "ctc glancing, ONNX Runtime", "parallel", 4, 18, "end"),
    Point("cmlm_iter1", "cmlm, 1 iteration", "parallel"),
    Point("cmlm_iter4", "cmlm, 4", "parallel"),
    Point("cmlm_iter10", "cmlm, 10", "parallel"),
    Point("nat", "nat", "parallel"),
    Point("nat_crf", "nat_crf", "parallel", -8, 4, "end"),
    Point("inat_iter10", "inat", "parallel"),
    Point("dag", "dag", "parallel"),
    Point("levenshtein_iter10", "levenshtein", "parallel", 0, -10, "middle"),
    Point("insertion_iter10", "insertion", "parallel"),
)
KINDS = (
    ("teacher", "teacher"),
    ("distilled", "distilled student, 1 decoder layer"),
    ("parallel", "non-autoregressive students"),
)
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, WIDTH - 24, 74, 400
_SLOWEST, _FASTEST = 15.0, 400.0


def speed_chart(figures: Mapping[str, float], palette: Palette) -> str:
    """Return a scatter plot of BLEU against sentences per second, one sentence at a time on one CPU thread."""
    parts = [
        *svg_title("BLEU and speed: Multi30k en-de, one sentence at a time, one CPU thread", palette),
        *svg_legend([(text, getattr(palette, kind)) for kind, text in KINDS], palette),
        *_speed_axes(palette),
    ]
    for point in POINTS:
        parts += _mark(point, figures[f"speed_batch1_{point.name}"], figures[f"bleu_{point.name}"], palette)
    return svg_image(parts, _BOTTOM + 46, "BLEU against sentences per second of the teacher and of students")


def _mark(point: Point, speed: float, bleu: float, palette: Palette) -> Iterator[str]:
    x, y, exact = _speed_x(speed), _speed_y(bleu), f"{point.label}: {bleu:.2f} BLEU, {speed:.0f} sentences/s"
    yield (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{getattr(palette, point.kind)}">'
        f"<title>{html.escape(exact)}</title></circle>"
    )
    yield svg_text(x + point.dx, y + point.dy, point.label, palette.ink, anchor=point.anchor, size=12)


def _speed_axes(palette: Palette) -> Iterator[str]:
    for bleu in range(0, 41, 10):
        y = _speed_y(bleu)
        yield f'<path d="M{_LEFT},{y:.1f} H{_RIGHT}" stroke="{palette.grid}"/>'
        yield svg_text(_LEFT - 8, y + 4, str(bleu), palette.muted, anchor="end")
    for speed in (20, 50, 100, 200, 300):
        x = _speed_x(speed)
        yield f'<path d="M{x:.1f},{_BOTTOM} v5" stroke="{palette.muted}"/>'
        yield svg_text(x, _BOTTOM + 20, str(speed), palette.muted, anchor="middle")
    middle, label = (_LEFT + _RIGHT) / 2, "sentences per second (logarithmic)"
    yield svg_text(middle, _BOTTOM + 38, label, palette.muted, anchor="middle")
    yield svg_text(_LEFT - 36, _TOP - 8, "BLEU", palette.muted)


def _speed_x(speed: float) -> float:
    share = math.log(speed / _SLOWEST) / math.log(_FASTEST / _SLOWEST)
    return _LEFT + share * (_RIGHT - _LEFT)


def _speed_y(bleu: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * bleu / 42


# ----------------------------------------------------------------------------------------------------------- parts


def svg_title(text: str, palette: Palette) -> Iterator[str]:
    yield f'<text x="16" y="24" fill="{palette.ink}" font-size="15" font-weight="600">{html.escape(text)}</text>'


def svg_legend(entries: Sequence[tuple[str, str]], palette: Palette) -> Iterator[str]:
    x = 16.0
    for text, colour in entries:
        yield f'<rect x="{x}" y="38" width="12" height="12" fill="{colour}"/>'
        yield svg_text(x + 18, 49, text, palette.ink)
        x += 18 + 6.6 * len(text) + 26  # estimated width of the text


def svg_text(x: float, y: float, text: str, colour: str, *, anchor: str = "start", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}">'
        f"{html.escape(text)}</text>"
    )


def svg_image(parts: Sequence[str], height: float, label: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="{html.escape(label)}" {FONT}>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


if __name__ == "__main__":
    main()
