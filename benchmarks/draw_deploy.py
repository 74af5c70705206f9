"""Draw the engines of `make bench-deploy` for the documentation, for a light and a dark background.

    make docs-images      (python benchmarks/draw_deploy.py [--out docs/images])

deploy-{light,dark}.svg    time of a sentence of each student in each engine on one thread, with speed, size and memory
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench_deploy import ENGINES, STUDENTS
from draw_results import IMAGES, PALETTES, WIDTH, Palette, read_figures, svg_image, svg_text, svg_title
from figures import RESULTS

_LABELS = {
    "pytorch": "PyTorch",
    "ctranslate2": "CTranslate2",
    "ctranslate2_shortlist": "CTranslate2, shortlist",
    "ctranslate2_int8": "CTranslate2 int8",
    "ctranslate2_int8_shortlist": "CTranslate2 int8, shortlist",
    "marian": "Marian",
    "bergamot": "Bergamot int8, shortlist",
    "onnx": "ONNX Runtime",
    "onnx_int8": "ONNX Runtime int8",
}
NO_RESULTS = "`make bench-deploy` measures students in every engine. There are no results yet."
PICTURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="images/deploy-dark.svg">
  <img alt="Time of a sentence of each student in each engine on one thread" src="images/deploy-light.svg">
</picture>"""
_LEFT, _RIGHT, _TOP = 200, WIDTH - 340, 44
_ROW, _HEADING = 20, 34


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMAGES, help="Folder of the images (default: docs/images).")
    out: Path = parser.parse_args().out
    if not (RESULTS / "deploy.json").exists():
        print("draw_deploy: no results: make bench-deploy")
        return
    out.mkdir(parents=True, exist_ok=True)
    figures = read_figures("deploy")
    for palette in PALETTES:
        (out / f"deploy-{palette.name}.svg").write_text(deploy_chart(figures, palette), encoding="utf-8")


def deploy_table(figures: Mapping[str, float]) -> str:
    """Return a table of the size of each student in each engine, its speed on one and two threads, and its memory.

    The fastest engine of a student on one thread, one sentence at a time, is bold.
    """
    lines = [
        "| student | engine | size | ms per sentence, 1 and 2 threads | words per second, 1 and 2 threads | memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for student in STUDENTS:
        engines = [name for name in ENGINES if f"deploy_{student}_{name}_1_ms" in figures]
        fastest = min((figures[f"deploy_{student}_{name}_1_ms"] for name in engines), default=None)
        for name in engines:
            start = f"deploy_{student}_{name}"
            both = [name for name in (f"{start}_1", f"{start}_2") if f"{name}_ms" in figures]
            times = " / ".join(f"{figures[f'{each}_ms']:.1f}" for each in both)
            speeds = " / ".join(f"{figures[f'{each}_words_per_second']:,.0f}" for each in both)
            label = f"**{_LABELS[name]}**" if figures[f"{start}_1_ms"] == fastest else _LABELS[name]
            size, memory = figures[f"{start}_mb"], figures[f"{start}_1_rss_mb"]
            lines.append(f"| `{student}` | {label} | {size:.0f} MB | {times} | {speeds} | {memory:,.0f} MB |")
    return "\n".join(lines)


def deploy_chart(figures: Mapping[str, float], palette: Palette) -> str:
    """Return bars of milliseconds per sentence for each student and engine; the shortest of each student is marked."""
    slowest = max(value for name, value in figures.items() if name.endswith("_1_ms"))
    parts = list(svg_title("Milliseconds per sentence in each engine, one sentence at a time, one CPU thread", palette))
    top = float(_TOP)
    for student in STUDENTS:
        engines = [name for name in ENGINES if f"deploy_{student}_{name}_1_ms" in figures]
        if engines:
            parts.append(svg_text(16, top + 22, student, palette.ink, size=14))
            parts += _rows(figures, student, engines, top + _HEADING, slowest, palette)
            top += _HEADING + _ROW * len(engines)
    return svg_image(parts, top + 16, "time, speed, size and memory of students in every engine")


def _rows(
    figures: Mapping[str, float], student: str, engines: Sequence[str], top: float, slowest: float, palette: Palette
) -> Iterator[str]:
    fastest = min(figures[f"deploy_{student}_{name}_1_ms"] for name in engines)
    for number, name in enumerate(engines):
        start, y = f"deploy_{student}_{name}", top + _ROW * number
        milliseconds, label = figures[f"{start}_1_ms"], _LABELS[name]
        speed, memory = figures[f"{start}_1_words_per_second"], figures[f"{start}_1_rss_mb"]
        width = (_RIGHT - _LEFT) * milliseconds / slowest
        color = palette.distilled if milliseconds == fastest else palette.teacher
        exact = (
            f"{milliseconds:.1f} ms, {speed:,.0f} words/s, {figures[f'{start}_mb']:.0f} MB, {memory:,.0f} MB of memory"
        )
        yield svg_text(_LEFT - 8, y + 14, label, palette.ink, anchor="end", size=12)
        yield (
            f'<rect x="{_LEFT}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}" fill="{color}">'
            f"<title>{html.escape(f'{student}, {label}: {exact}')}</title></rect>"
        )
        yield svg_text(_LEFT + width + 8, y + 14, exact, palette.muted, size=12)


if __name__ == "__main__":
    main()
