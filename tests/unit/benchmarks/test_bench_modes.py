"""Tests of `make bench-modes` and of the table and the chart that are made from its results."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kdmt.config import load_pipeline
from kdmt.toy.modes import LANGUAGES, argmax_validity

ROOT = Path(__file__).resolve().parents[3]
SVG = "{http://www.w3.org/2000/svg}"
PERCENT = {"ar": 99.0, "nat": 5.0, "ctc": 6.0, "dag": 98.0, "iter1": 4.0, "iter4": 97.0, "iter10": 99.5}


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield {name: importlib.import_module(name) for name in ("bench_modes", "draw_modes")}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def bench(modules):
    return modules["bench_modes"]


@pytest.fixture(scope="module")
def drawing(modules):
    return modules["draw_modes"]


# -------------------------------------------------------------------------------------------------------- pipelines


@pytest.mark.parametrize("name", LANGUAGES)
def test_pipelines_have_every_family_on_raw_and_on_distilled_text(bench, name):
    config = load_pipeline(ROOT / "pipelines" / f"modes-{name}.yaml")
    assert set(config.students) == {f"{family}_{text}" for family in bench.FAMILIES for text in bench.TEXTS}
    for family in bench.FAMILIES:
        raw, distilled = (config.students[f"{family}_{text}"] for text in bench.TEXTS)
        assert (raw.data, distilled.data) == bench.TEXTS
        assert raw == distilled.model_copy(update={"data": "raw"})  # nothing else differs
        assert (raw.nat.family if raw.nat else "ar") == family
        assert raw.seeds == [1, 2, 3, 4, 5]
    assert config.score.iterations == [1, 4, 10]
    shapes = [config.teacher.model, *(student.model for student in config.students.values())]
    assert all(shape == shapes[0] for shape in shapes)


def test_pipelines_of_both_languages_differ_in_the_language_alone():
    two, three = ((ROOT / "pipelines" / f"modes-{name}.yaml").read_text().splitlines() for name in ("two", "three"))
    assert len(two) == len(three)
    assert {(a.replace("two", "three"), b) for a, b in zip(two[1:], three[1:], strict=True)} == {
        (b, b) for b in three[1:]
    }


# ---------------------------------------------------------------------------------------------------------- figures


@pytest.fixture
def run(bench, tmp_path):
    """Return a run of `three` with two seeds whose outputs are known: w00, w01 and w02 are of different classes."""
    folder = tmp_path / "modes-three"
    sources = ["w00 w01 w02", "w00 w03 w06", "w01", "w00 w01"]
    write(folder / "prepare/test.qaa", sources)
    valid = ["ab00 a01 ac02", "c00 c03 c06", "bc01", "ab00 bc01"]
    outputs = {
        ("nat_raw", 1): valid,
        ("nat_raw", 2): ["ab00 bc01 ac02", "c00 c03 c06", "bc02", ""],  # mixed, valid, wrong, wrong
        ("cmlm_raw", 1, 1): ["ab00 bc01 ac02", "ab00 c03 c06", "a01", "c00 a01"],
        ("cmlm_raw", 1, 10): valid,
        ("cmlm_distilled", 1, 1): valid,
        ("cmlm_distilled", 1, 10): valid,
        ("teacher", 7): valid,
    }
    rows = []
    for (system, seed, *iterations), lines in outputs.items():
        refined = iterations[0] if iterations else None
        passes = 1 if system == "nat_raw" else refined
        way = "beam1" if passes is None else f"iter{passes}"
        rows.append({"system": system, "seed": seed, "test_set": "test", "beam": 1, "iterations": passes})
        write(folder / "score" / f"{system}.seed_{seed}.test.{way}.qab", lines)
    write(folder / "scores.json", [json.dumps(rows)])
    write(folder / "prepare/train.qaa", [*sources, "w05"])  # of which the teacher has no translation
    write(folder / "prepare/train.qab", ["c00 bc01 ac02", "ab00 ab03 ab06", "bc01", "c00 bc01", "b05"])
    write(folder / "distill/distilled.qaa", sources)
    write(folder / "distill/distilled.qab", ["ab00 bc01 ac02", "ab00 ab03 ab06", "a01", "ab00 ab01"])
    return bench.Run(folder, LANGUAGES["three"])


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_percentages_of_verdicts_by_system_and_seed(run):
    found = run.percentages()
    assert found["nat_raw"] == {
        "valid": {1: 100.0, 2: 25.0},
        "mixed": {1: 0.0, 2: 25.0},
        "wrong": {1: 0.0, 2: 50.0},
    }
    assert found["cmlm_raw_iter1"]["mixed"] == {1: 75.0}
    assert found["cmlm_raw_iter10"]["valid"] == {1: 100.0}


def test_figures_are_means_and_deviations_over_seeds(bench, run):
    figures = {figure.name: figure.value for figure in bench.figures_of("three_mode", run)}
    assert figures["three_mode_nat_raw_valid"] == 62.5
    assert figures["three_mode_nat_raw_valid_sd"] == pytest.approx(75 / 2**0.5)
    assert figures["three_mode_nat_raw_mixed"] == 12.5
    assert figures["three_mode_cmlm_raw_iter1_valid"] == 25.0
    assert figures["three_mode_cmlm_raw_valid"] == figures["three_mode_cmlm_raw_iter10_valid"] == 100.0
    assert figures["three_mode_teacher_valid"] == 100.0
    assert figures["three_mode_distilled_text_valid"] == 50.0
    assert figures["three_mode_distilled_text_reference"] == 25.0


def test_validation_losses_are_means_over_seeds(bench, run):
    losses = {"teacher": {100: 0.5}} | {f"{family}_{text}": {} for family in bench.FAMILIES for text in bench.TEXTS}
    for seed, values in ((1, {100: 2.0, 200: 1.0}), (2, {100: 3.0, 200: 1.5, 300: 1.0})):
        for system in losses:
            folder = run.folder / ("teacher" if system == "teacher" else f"students/{system}/seed_{seed}")
            of_system = losses["teacher"] if system == "teacher" else values
            records = [{"kind": "valid", "update": update, "loss": loss} for update, loss in of_system.items()]
            records.insert(1, {"kind": "train", "update": 150, "loss": 9.0})
            write(folder / "metrics.jsonl", list(map(json.dumps, records)))
    found = run.validation_losses([1, 2])
    assert found.keys() == losses.keys()
    assert found["teacher"] == {100: 0.5}
    assert found["dag_raw"] == {100: 2.5, 200: 1.25}  # at 300 one of the seeds is missing


def test_dialects_of_the_distilled_text(run):
    assert run.dialects_of_teacher() == {"a": 25.0, "ab": 25.0, "none": 50.0}


def test_expectations_of_independent_positions(bench, run):
    figures = {figure.name: figure.value for figure in bench.expectations("three_mode", run)}
    lengths = (3, 3, 1, 2)
    assert figures["three_mode_argmax_valid"] == pytest.approx(25 * float(sum(map(argmax_validity, lengths))))
    sampled = sum(3 * (5 / 9) ** n - 3 * (2 / 9) ** n for n in lengths)
    assert figures["three_mode_sampling_valid"] == pytest.approx(25 * sampled)
    assert figures["three_mode_most_probable_words_valid"] == 75.0  # all but the sentence with three classes


# ---------------------------------------------------------------------------------------------- table and chart


@pytest.fixture(scope="module")
def figures(drawing):
    found = {}
    for prefix, _ in drawing.PANELS:
        for row, _, _ in drawing.ROWS:
            for text, _ in drawing.TEXTS:
                name = drawing.figure_name(prefix, row, text)
                (key,) = (key for key in PERCENT if f"_{key}_" in name)
                found[name] = PERCENT[key] if text == "raw" or PERCENT[key] > 90 else 96.0
                found[f"{name}_sd"] = 0.5
        found |= {f"{prefix}_sampling_valid": 1.1, f"{prefix}_distilled_text_valid": 99.1}
    return found | {"three_mode_argmax_valid": 4.2}


def test_table_has_the_figures(drawing, figures):
    lines = drawing.modes_table(figures).splitlines()
    assert "| `nat` | 5.0 ± 0.5 | 96.0 ± 0.5 | 5.0 ± 0.5 | 96.0 ± 0.5 |" in lines
    assert "| `cmlm`, 10 iterations | 99.5 ± 0.5 | 99.5 ± 0.5 | 99.5 ± 0.5 | 99.5 ± 0.5 |" in lines
    assert "| expected: most probable word at each position | | | 4.2 | |" in lines
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("number", [0, 1])
def test_lengths_of_bars_are_proportional_to_the_figures(drawing, figures, number):
    picture = ElementTree.fromstring(drawing.modes_chart(figures, drawing.PALETTES[number]))
    bars = [bar for bar in picture.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]
    drawn = sorted(float(bar.get("width")) for bar in bars)
    valid = sorted(value for name, value in figures.items() if name.endswith("_valid") and f"{name}_sd" in figures)
    assert len(drawn) == len(valid) == 28
    assert [width / drawn[-1] for width in drawn] == pytest.approx([value / valid[-1] for value in valid], abs=0.12)
    first = [bar for bar in bars if float(bar.get("x")) < 200]
    widths = sorted(float(bar.get("width")) for bar in first)
    assert [width / widths[-1] for width in widths] == pytest.approx([v / valid[-1] for v in valid[::2]], abs=0.001)


def test_charts_of_the_documentation_match_the_committed_results(drawing, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["draw_modes.py", "--out", str(tmp_path / "images")])
    drawing.main()
    made = sorted((tmp_path / "images").glob("*.svg"))
    assert [path.name for path in made] == sorted(path.name for path in drawing.IMAGES.glob("modes-*.svg"))
    assert all(path.read_text() == (drawing.IMAGES / path.name).read_text() for path in made)


def test_without_results_nothing_is_drawn(drawing, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["draw_modes.py", "--out", str(tmp_path / "images"), "--results", str(tmp_path)])
    drawing.main()
    assert drawing.NO_RESULTS in capsys.readouterr().out
    assert not (tmp_path / "images").exists()
