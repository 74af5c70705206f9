"""Tests of benchmarks/run_slow_tests.py: the summary of tests that pass, fail, are skipped or have a broken fixture."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.fixture
def broken():
    raise OSError

@pytest.mark.slow
def test_passes(): pass

@pytest.mark.slow
def test_fails(): assert False

@pytest.mark.slow
@pytest.mark.skip
def test_skipped(): pass

@pytest.mark.slow
def test_breaks(broken): pass

def test_is_quick(): assert False
"""


def test_summary_has_every_slow_test_and_the_exit_code_of_pytest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    slow_tests = importlib.import_module("run_slow_tests")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_made_up.py").write_text(TESTS, encoding="utf-8")
    report = slow_tests.report_figures
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slow_tests, "REPOSITORY", tmp_path)
    monkeypatch.setattr(slow_tests, "report_figures", lambda *a, **k: report(*a, **k, results_dir=tmp_path / "results"))
    monkeypatch.setattr(sys, "argv", ["run_slow_tests.py", "-q", "-p", "no:cacheprovider"])
    assert slow_tests.main() == pytest.ExitCode.TESTS_FAILED

    summary = json.loads((tmp_path / "results" / "test-slow.json").read_text(encoding="utf-8"))
    tests = {name.partition("::")[2]: test["outcome"] for name, test in summary["settings"]["tests"].items()}
    assert tests == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_skipped": "skipped",
        "test_breaks": "failed",
    }
    figures = {figure["name"]: figure["value"] for figure in summary["figures"]}
    assert (figures["slow_tests_passed"], figures["slow_tests_failed"], figures["slow_tests_skipped"]) == (1, 2, 1)
    assert summary["settings"]["exit_code"] == 1
    assert summary["command"] == "make test-slow"
    assert "figure: slow_tests_failed 2 tests" in capsys.readouterr().out
