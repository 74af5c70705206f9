"""Tests of the output of benchmarks: the lines, the JSON file, and data that must not be in it."""

import importlib
import json
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def figures():
    """Import the module as the scripts in its folder do."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("figures")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_lines_and_file_have_the_same_figures(figures, tmp_path, capsys):
    measured = [figures.Figure("help_seconds", 0.31234567, "s"), figures.Figure("pairs", 5_000_000, "pairs")]
    figures.report_figures("import", measured, settings={"runs": 3, "threads": [1, 2]}, results_dir=tmp_path / "new")
    assert capsys.readouterr().out == "figure: help_seconds 0.312346 s\nfigure: pairs 5000000 pairs\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["import.json"]
    result = json.loads((tmp_path / "new" / "import.json").read_text(encoding="utf-8"))
    assert result["figures"] == [
        {"name": "help_seconds", "value": 0.31234567, "unit": "s"},
        {"name": "pairs", "value": 5_000_000, "unit": "pairs"},
    ]
    assert (result["bench"], result["command"]) == ("import", "make bench-import")
    assert result["settings"] == {"runs": 3, "threads": [1, 2]}
    assert result.keys() == {"bench", "command", "commit", "settings", "machine", "figures"}


def test_a_command_is_stored_as_given(figures, tmp_path):
    command = "make bench-x PAIRS=10 OUT=benchmarks/results"
    figures.report_figures("x", [figures.Figure("a", 1, "s")], settings={}, command=command, results_dir=tmp_path)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["command"] == command


def test_the_machine_is_described_without_its_name_or_paths(figures, tmp_path):
    figures.report_figures("x", [figures.Figure("a", 1, "s")], settings={}, results_dir=tmp_path)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    machine = json.loads(text)["machine"]
    assert machine["versions"]["python"] == platform.python_version()
    assert re.match(r"\d+\.\d+", machine["versions"]["torch"])
    assert 1 <= machine["cores"] <= os.cpu_count()
    assert machine["memory_gb"] > 0
    assert str(Path.home()) + "/" not in text
    assert str(BENCHMARKS.parent) not in text
    assert f'"{platform.node()}"' not in text


def test_instruction_sets_are_those_of_the_processor(figures):
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        pytest.skip("no /proc/cpuinfo here")
    flags = set(re.search(r"^(?:flags|Features)\s*:(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)[1].split())
    assert set(figures.describe_machine()["instruction_sets"]) == flags & set(figures.INSTRUCTION_SETS)


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [
        ("Help", 1.0, "s"),
        ("help seconds", 1.0, "s"),
        ("a", math.nan, "s"),
        ("a", math.inf, "s"),
        ("a", 1.0, ""),
        ("a", 1.0, "s s"),
    ],
)
def test_invalid_figure_is_refused(figures, name, value, unit):
    with pytest.raises(ValueError, match="figure"):
        figures.Figure(name, value, unit)


@pytest.mark.parametrize(
    "settings", [{"data": "/srv/corpus.txt"}, {"a": ["~/x"]}, {"a": {"b": "--out=/tmp"}}, {"a": Path("x")}]
)
def test_absolute_paths_are_refused_before_anything_is_written(figures, tmp_path, settings):
    with pytest.raises(ValueError, match="relative"):
        figures.report_figures("x", [figures.Figure("a", 1, "s")], settings=settings, results_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_figures_and_duplicate_names_are_refused(figures, tmp_path):
    for measured in ([], [figures.Figure("a", 1, "s"), figures.Figure("a", 2, "s")]):
        with pytest.raises(ValueError, match="once"):
            figures.report_figures("x", measured, settings={}, results_dir=tmp_path)


def test_commit_is_marked_if_files_differ_from_it(figures, tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    assert figures.describe_commit(tmp_path) is None
    (tmp_path / "file").write_text("1", encoding="utf-8")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert figures.describe_commit(tmp_path) == commit
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "x.json").write_text("{}", encoding="utf-8")
    assert figures.describe_commit(tmp_path) == commit
    (tmp_path / "file").write_text("2", encoding="utf-8")
    assert figures.describe_commit(tmp_path) == f"{commit}-dirty"
