"""What a run computes with is chosen once, by what the machine can do, and kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdmt.config import Train
from kdmt.errors import UserError
from kdmt.train import arithmetic
from kdmt.train.arithmetic import (
    FILE,
    Arithmetic,
    Precision,
    choose_arithmetic,
    choose_threads,
    has_bf16_units,
    read_arithmetic,
    timed_pass,
)

CPU = torch.device("cpu")
CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def with_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "has_bf16_units", lambda _: True)


@pytest.fixture
def without_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "has_bf16_units", lambda _: False)


def choose(
    run: Path, settings: Train | None = None, *, seconds: dict[str, float] | None = None, **others: Any
) -> tuple[Arithmetic, list[str]]:
    """The choice, and what was said; without `seconds` a probe is an error."""
    said: list[str] = []
    measure: Callable[[Precision], float] = (seconds or {}).__getitem__
    chosen = choose_arithmetic(run, settings or Train(), **{"device": CPU, **others}, measure=measure, note=said.append)
    return chosen, said


@pytest.mark.usefixtures("without_units")
def test_without_matrix_units_it_is_float32_and_nothing_is_probed(tmp_path: Path) -> None:
    chosen, said = choose(tmp_path)
    assert chosen == Arithmetic("float32", torch.get_num_threads())
    assert said == []
    assert read_arithmetic(tmp_path) == chosen


@pytest.mark.usefixtures("with_units")
@pytest.mark.parametrize("fastest", arithmetic.CHOICES)
def test_with_matrix_units_the_fastest_is_taken_and_kept(tmp_path: Path, fastest: str) -> None:
    seconds = dict.fromkeys(arithmetic.CHOICES, 0.02) | {fastest: 0.01}
    chosen, said = choose(tmp_path, seconds=seconds)
    assert chosen.precision == fastest
    assert chosen.probe_ms == {name: 1000 * value for name, value in seconds.items()}
    assert said == [f"computes in {fastest}: " + ", ".join(f"{k} {1000 * v} ms" for k, v in seconds.items())]
    again, said = choose(tmp_path)  # without a probe
    assert (again, said) == (chosen, [])


@pytest.mark.usefixtures("with_units")
def test_gpu_with_bf16_needs_no_probe(tmp_path: Path) -> None:
    assert choose(tmp_path, device=torch.device("cuda"))[0].precision == "bf16"


@pytest.mark.usefixtures("with_units")
def test_a_setting_is_obeyed_without_a_probe(tmp_path: Path) -> None:
    assert choose(tmp_path, Train(precision="bf16_output"))[0].precision == "bf16_output"


def test_first_pass_of_a_probe_does_not_count(tmp_path: Path) -> None:
    times = {name: [9.0, *[0.1] * 5] for name in arithmetic.CHOICES}
    times["bf16"] = [0.01, *[5.0] * 5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "has_bf16_units", lambda _: True)
        chosen = choose_arithmetic(
            tmp_path, Train(), device=CPU, measure=lambda name: times[name].pop(0), note=lambda _: None
        )
    assert chosen.probe_ms == {"float32": 100.0, "bf16_output": 100.0, "bf16": 5000.0}


def test_threads_are_those_the_run_began_with(tmp_path: Path) -> None:
    assert choose_threads(tmp_path, Train()) == CORES
    (tmp_path / FILE).write_text('{"precision": "float32", "threads": 7, "probe_ms": {}}')
    assert choose_threads(tmp_path, Train()) == 7
    assert choose_threads(tmp_path, Train(threads=3)) == 3


def test_other_threads_than_before_are_mentioned(tmp_path: Path) -> None:
    now = torch.get_num_threads()
    (tmp_path / FILE).write_text(f'{{"precision": "float32", "threads": {now + 1}, "probe_ms": {{}}}}')
    chosen, said = choose(tmp_path)
    assert chosen.threads == now
    assert said == [f"begun with {now + 1} threads, now {now}: the last bits will not be those of one run"]


@pytest.mark.parametrize("content", ["", "{}", '{"precision": "float32"}', "[1]"])
def test_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=r"arithmetic\.json: (damaged: |not valid JSON|not a JSON object)"):
        read_arithmetic(tmp_path)


def test_timing_gives_random_numbers_back() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert timed_pass(lambda: torch.rand(100)) > 0
    assert torch.equal(torch.rand(3), expected)


def test_units_are_those_of_the_processor() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if not flags:
        pytest.skip("no /proc/cpuinfo to compare with")
    assert has_bf16_units(CPU) == ("amx_tile" in flags or "avx512_bf16" in flags)
