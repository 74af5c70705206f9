"""The program in the process of an engine: replies, energy counters and empty lines."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdmt.decode.engines import worker


def test_the_program_needs_only_the_standard_library() -> None:
    tree = ast.parse(Path(worker.__file__).read_text())
    imported = {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module).split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_errors_are_replies_and_prints_are_no_replies() -> None:
    request = {"load": {"engine": "none", "path": []}}
    ran = subprocess.run(
        [sys.executable, "-I", worker.__file__], input=json.dumps(request), capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout) == {"error": "KeyError: 'none'"}


def test_empty_lines_are_not_translated() -> None:
    given: list[list[str]] = []

    def upper(lines: list[str]) -> list[str]:
        given.append(lines)
        return [line.upper() for line in lines]

    translate = worker._without_empty(upper)
    assert translate(["a", " ", "b", ""]) == ["A", "", "B", ""]
    assert translate([""]) == [""]
    assert given == [["a", "b"]]


def test_energy_is_the_sum_over_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for zone, energy in (("intel-rapl:0", 9_000_000), ("intel-rapl:1", 3_000_000), ("intel-rapl:0:0", 1)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{energy}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("10000000\n")
    monkeypatch.setattr(worker, "_POWER_CAPPING", tmp_path)

    def translate(lines: list[str]) -> list[str]:
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("2000000\n")  # it has started again from 0
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text("3500000\n")
        return lines

    assert worker._translate_at_once(translate, ["a"])["joules"] == pytest.approx(3.5)
    monkeypatch.setattr(worker, "_POWER_CAPPING", tmp_path / "none")
    assert worker._translate_at_once(lambda lines: lines, ["a"])["joules"] is None


def test_memory_is_that_of_this_process() -> None:
    now, peak = worker._resident_bytes("VmRSS"), worker._resident_bytes("VmHWM")
    assert 1e6 < now <= peak
