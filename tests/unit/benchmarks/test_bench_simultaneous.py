"""Tests of `make bench-simultaneous` and of the table and the chart that are made from its results."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kdmt.config import load_pipeline
from kdmt.config.simultaneous import values_of

ROOT = Path(__file__).resolve().parents[3]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield {name: importlib.import_module(name) for name in ("bench_simultaneous", "draw_simultaneous")}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def bench(modules):
    return modules["bench_simultaneous"]


@pytest.fixture(scope="module")
def drawing(modules):
    return modules["draw_simultaneous"]


def test_pipeline_has_raw_and_distilled_students_that_differ_in_nothing_else(bench, drawing):
    config = load_pipeline(bench.PIPELINE)
    kinds = [kind for kind, _ in drawing.KINDS]
    assert set(config.students) == {f"{kind}_{text}" for kind in kinds for text, _ in drawing.TEXTS}
    for kind in kinds:
        raw, distilled = (config.students[f"{kind}_{text}"] for text in ("raw", "distilled"))
        assert (raw.data, distilled.data) == ("raw", "distilled")
        assert raw == distilled.model_copy(update={"data": "raw"})
        assert raw.seeds == [1, 2]
    waiting, whole = config.students["wait_raw"], config.students["whole_raw"]
    assert values_of(waiting.wait_k) == tuple(range(1, 10))
    assert waiting.model_copy(update={"wait_k": None}) == whole
    assert set(config.score.simultaneous.wait_k) <= set(values_of(waiting.wait_k))


def row(system, seed, bleu, *, beam=1, wait_k=None, al=None, iterations=None):
    latency = None if al is None else {"al": al, "laal": al + 0.1, "ap": 0.5, "dal": al + 0.2}
    found = {"system": system, "seed": seed, "bleu": bleu, "beam": beam, "iterations": iterations}
    return found | ({} if wait_k is None else {"wait_k": wait_k}) | ({} if latency is None else {"latency": latency})


@pytest.fixture(scope="module")
def figures(bench):
    rows = [row("teacher", 1, 40.0, beam=5)]
    for text, gain in (("raw", 0.0), ("distilled", 2.0)):
        for seed in (1, 2):
            rows += [row(f"wait_{text}", seed, 20 + 2 * k + gain + seed, wait_k=k, al=k + 0.5) for k in (3, 1)]
            rows.append(row(f"wait_{text}", seed, 33 + seed))
            rows.append(row(f"chunk_{text}", seed, 25 + gain, al=4.0, iterations=1))
    return {figure.name: figure.value for figure in bench.figures_of(bench.values_of(rows))}


def test_figures_are_means_over_seeds(figures):
    assert figures["wait_raw_wait3_bleu"] == 27.5
    assert figures["wait_raw_wait3_bleu_sd"] == pytest.approx(0.5**0.5)
    assert figures["wait_distilled_wait1_al"] == 1.5
    assert figures["chunk_raw_chunk_laal"] == pytest.approx(4.1)
    assert figures["teacher_beam5_bleu"] == 40.0
    assert figures["wait_raw_beam1_bleu"] == 34.5
    assert "wait_raw_beam1_al" not in figures


def test_table_has_a_line_for_each_way(drawing, figures):
    lines = drawing.simultaneous_table(figures).splitlines()
    assert "| trained with wait-k | raw | 3 | 27.5 ± 0.7 | 3.50 | 3.60 | 0.50 | 3.70 |" in lines
    assert "| ctc in chunks | distilled |  | 27.0 ± 0.0 | 4.00 | 4.10 | 0.50 | 4.20 |" in lines
    assert len(lines) == 2 + 2 * 3
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("number", [0, 1])
def test_marks_are_where_latency_and_quality_put_them(drawing, figures, number):
    picture = ElementTree.fromstring(drawing.simultaneous_chart(figures, drawing.PALETTES[number]))
    circles = list(picture.iter(f"{SVG}circle"))
    assert len(circles) == 4
    places = {mark.find(f"{SVG}title").text: (float(mark.get("cx")), float(mark.get("cy"))) for mark in circles}
    (first, third), colours = sorted({across for across, _ in places.values()}), {mark.get("fill") for mark in circles}
    assert len(colours) == 2
    squares = [mark for mark in picture.iter(f"{SVG}rect") if mark.find(f"{SVG}title") is not None]
    across = [float(mark.get("x")) + 5 for mark in squares]
    expected = first + (third - first) * 2.5 / 2  # at 4 words; 1.5 and 3.5 are known
    assert across == pytest.approx([expected, expected], abs=0.11)
    heights = sorted(down for _, down in places.values())
    assert heights == [down for _, (_, down) in sorted(places.items(), key=lambda item: -_bleu(item[0]))]


def _bleu(title):
    return float(title.split("BLEU ")[1].split(",")[0])


def test_charts_of_the_documentation_match_the_committed_results(drawing, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["draw_simultaneous.py", "--out", str(tmp_path / "images")])
    drawing.main()
    made = sorted((tmp_path / "images").glob("*.svg"))
    assert [path.name for path in made] == sorted(path.name for path in drawing.IMAGES.glob("simultaneous-*.svg"))
    assert all(path.read_text() == (drawing.IMAGES / path.name).read_text() for path in made)


def test_without_results_nothing_is_drawn(drawing, monkeypatch, tmp_path, capsys):
    arguments = ["draw_simultaneous.py", "--out", str(tmp_path / "images"), "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    drawing.main()
    assert drawing.NO_RESULTS in capsys.readouterr().out
    assert not (tmp_path / "images").exists()
