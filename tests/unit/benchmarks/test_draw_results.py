"""Tests of the charts of the documentation: they match the committed results and are readable on both backgrounds."""

import importlib
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[3]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawing():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("draw_results")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_committed_images_match_the_committed_results(drawing, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["draw_results.py", "--out", str(tmp_path)])
    drawing.main()
    images = sorted(path.name for path in tmp_path.iterdir())
    assert images == sorted(path.name for path in (ROOT / "docs" / "images").glob("students-*.svg"))
    for name in images:
        assert (tmp_path / name).read_text() == (ROOT / "docs" / "images" / name).read_text()


def test_lengths_of_bars_are_proportional_to_bleu(drawing):
    figures = json.loads((ROOT / "benchmarks/results/multi30k.json").read_text())["figures"]
    bleu = [figure["value"] for figure in figures if figure["name"].endswith("_bleu")]
    picture = ElementTree.fromstring(drawing.bleu_chart(drawing.read_figures("multi30k"), drawing.PALETTES[0]))
    widths = [float(bar.get("width")) for bar in picture.iter(f"{SVG}rect") if float(bar.get("x")) > 100]
    bars = [width for width in widths if width > 12]
    assert sorted(width / max(bars) for width in bars) == pytest.approx(sorted(b / max(bleu) for b in bleu), abs=0.001)


def test_titles_of_points_have_exact_figures(drawing):
    figures = drawing.read_figures("students")
    picture = ElementTree.fromstring(drawing.speed_chart(figures, drawing.PALETTES[0]))
    titles = [title.text for title in picture.iter(f"{SVG}title")]
    assert len(titles) == len(drawing.POINTS)
    assert f"ctc, ONNX Runtime: {figures['bleu_ctc_onnx']:.2f} BLEU" in "\n".join(titles)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("name", "backgrounds"), [("light", ["#ffffff"]), ("dark", ["#0d1117", "#1e2129"])])
def test_text_has_enough_contrast(drawing, name, backgrounds):
    (palette,) = [palette for palette in drawing.PALETTES if palette.name == name]
    drawn = drawing.bleu_chart(drawing.read_figures("multi30k"), palette)
    for colour in set(re.findall(r'<text [^>]*fill="(#\w+)"', drawn)):
        for background in backgrounds:
            low, high = sorted((luminance(colour), luminance(background)))
            assert (high + 0.05) / (low + 0.05) >= 4.5
