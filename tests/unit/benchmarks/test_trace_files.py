"""Tests of the tracer of `make architecture`, which finds the files of kdmt on the call stack at certain moments."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kdmt.config import Decode, Train, checked
from kdmt.corpus.batching import Batch
from kdmt.corpus.vocabulary import Dictionary
from kdmt.terminal import printable

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def tracer() -> Iterator[ModuleType]:
    """Import the script as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("trace_files")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize(
    ("question", "file", "function", "expected"),
    [
        ("plain", "/losses/ctc.py", "ctc_loss", True),
        ("plain", "/config/pipeline.py", "load_pipeline", True),
        ("plain", "/models/checkpoint.py", "load_model", False),
        ("cmlm", "/corpus/batching.py", "collate", True),
        ("translate", "/models/checkpoint.py", "load_model", True),
        ("translate", "/models/attention.py", "forward", True),
        ("translate", "/losses/ctc.py", "ctc_loss", False),
    ],
)
def test_moments_of_a_student_and_of_a_translation(
    tracer: ModuleType, question: str, file: str, function: str, expected: bool
) -> None:
    assert tracer.is_moment_of(question)(file, function) is expected


def test_files_on_the_stack_at_a_moment(tracer: ModuleType) -> None:
    def moment(_: str, function: str) -> bool:
        return function == "without_logins"

    assert tracer.traced(lambda: printable("text"), moment) == {"terminal.py"}
    assert tracer.traced(lambda: printable("text"), lambda *_: False) == set()


def test_callers_and_settings_of_kdmt_count(tracer: ModuleType) -> None:
    def at_the_check(_: str, function: str) -> bool:
        return function == "check_bounds"

    found = tracer.traced(lambda: checked(Decode, "x", beam=3), at_the_check)
    assert found == {"config/bounds.py", "config/section.py", "config/records.py"}


@pytest.mark.parametrize(("kind", "expected"), [(Train, True), (Batch, True), (Dictionary, False), (dict, False)])
def test_settings_and_batches_are_records(tracer: ModuleType, kind: type, expected: bool) -> None:
    assert tracer.is_record(kind) is expected


def test_the_profiler_is_removed(tracer: ModuleType) -> None:
    def fail() -> None:
        raise ValueError("x")

    before = sys.getprofile()
    with pytest.raises(ValueError, match="x"):
        tracer.traced(fail, lambda *_: True)
    assert sys.getprofile() is before
