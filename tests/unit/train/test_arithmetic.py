"""The number types of a run are chosen once, from the machine and the model's shape, and then kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from kdmt.choices import Precision
from kdmt.config import Train
from kdmt.errors import UserError
from kdmt.train import arithmetic
from kdmt.train.arithmetic import (
    FILE,
    Arithmetic,
    ModelShape,
    bound_memory,
    choose_arithmetic,
    choose_threads,
    cpu_vendor,
    has_bf16_units,
    read_arithmetic,
)

CPU = torch.device("cpu")
CORES = len(os.sched_getaffinity(0))
WIDE = ModelShape(width=512, vocabulary=32_000)


@pytest.fixture
def with_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "has_bf16_units", lambda _: True)
    monkeypatch.setattr(arithmetic, "has_amx", lambda: False)


@pytest.fixture
def without_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "has_bf16_units", lambda _: False)


def choose(
    run: Path, settings: Train | None = None, *, shape: ModelShape = WIDE, **others: Any
) -> tuple[Arithmetic, list[str]]:
    """Return the choice and the messages to the user."""
    notes: list[str] = []
    chosen = choose_arithmetic(run, settings or Train(), **{"device": CPU, **others}, shape=shape, note=notes.append)
    return chosen, notes


@pytest.mark.usefixtures("without_units")
def test_without_matrix_units_the_precision_is_float32(tmp_path: Path) -> None:
    chosen, notes = choose(tmp_path)
    assert chosen == Arithmetic("float32", torch.get_num_threads())
    assert notes == []
    assert read_arithmetic(tmp_path) == chosen


@pytest.mark.usefixtures("with_units")
@pytest.mark.parametrize(
    ("width", "vocabulary", "expected"),
    [
        (64, 32_000, "float32"),
        (127, 2_000, "float32"),
        (128, 1_999, "float32"),
        (128, 2_000, "bf16_output"),
        (1024, 500, "float32"),
        (1024, 250_000, "bf16_output"),
    ],
)
def test_with_matrix_units_the_shape_decides(tmp_path: Path, width: int, vocabulary: int, expected: str) -> None:
    chosen, notes = choose(tmp_path, shape=ModelShape(width, vocabulary))
    assert chosen.precision == expected
    assert notes == ([] if expected == "float32" else [f"computes in {expected} (train.precision: auto)"])


@pytest.mark.usefixtures("with_units")
@pytest.mark.parametrize(
    ("width", "vocabulary", "expected"),
    [(64, 32_000, "float32"), (255, 1_999, "float32"), (255, 2_000, "bf16_output"), (256, 500, "bf16")],
)
def test_with_amx_a_wide_model_computes_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, vocabulary: int, expected: str
) -> None:
    monkeypatch.setattr(arithmetic, "has_amx", lambda: True)
    assert choose(tmp_path, shape=ModelShape(width, vocabulary))[0].precision == expected


@pytest.mark.usefixtures("with_units")
def test_the_choice_is_kept(tmp_path: Path) -> None:
    first, _ = choose(tmp_path)
    again, notes = choose(tmp_path, shape=ModelShape(1, 1))
    assert (again, notes) == (first, [])


@pytest.mark.usefixtures("with_units")
def test_a_gpu_with_bf16_uses_it(tmp_path: Path) -> None:
    assert choose(tmp_path, device=torch.device("cuda"), shape=ModelShape(1, 1))[0].precision == "bf16"


@pytest.mark.usefixtures("without_units")
def test_a_setting_overrides_the_choice(tmp_path: Path) -> None:
    assert choose(tmp_path, Train(precision="bf16_output"))[0].precision == "bf16_output"


@pytest.mark.parametrize(
    ("precision", "device", "own", "expected"),
    [
        ("bf16", CPU, None, "64"),
        ("bf16_output", CPU, None, "64"),
        ("bf16", CPU, "7", "7"),
        ("float32", CPU, None, None),
        ("bf16", torch.device("cuda"), None, None),
    ],
)
def test_products_that_onednn_keeps_are_bounded(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, device: torch.device, own: str | None, expected: str | None
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, own or "")  # restored after the test
    if own is None:
        monkeypatch.delenv(name)
    bound_memory(precision, device)
    assert os.environ.get(name) == expected


def test_a_resumed_run_keeps_its_number_of_threads(tmp_path: Path) -> None:
    assert choose_threads(tmp_path, Train()) == CORES
    (tmp_path / FILE).write_text('{"precision": "float32", "threads": 7}')
    assert choose_threads(tmp_path, Train()) == 7
    assert choose_threads(tmp_path, Train(threads=3)) == 3


def test_a_file_with_timings_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"precision": "bf16", "threads": 7, "probe_ms": {"float32": 3.1, "bf16": 1.2}}')
    assert read_arithmetic(tmp_path) == Arithmetic("bf16", 7)


def test_another_number_of_threads_is_reported(tmp_path: Path) -> None:
    now = torch.get_num_threads()
    (tmp_path / FILE).write_text(f'{{"precision": "float32", "threads": {now + 1}}}')
    chosen, notes = choose(tmp_path)
    assert chosen.threads == now
    assert notes == [f"begun with {now + 1} threads, now {now}: the last bits will not be those of one run"]


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", '{"precision": "float32"}', "[1]", "null"),
        '{"precision": "float16", "threads": 1}',
        '{"precision": "float32", "threads": 0}',
        '{"precision": "float32", "threads": "2"}',
        '{"precision": [], "threads": 2}',
    ],
)
def test_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=r"arithmetic\.json: (damaged: |not valid JSON|not a JSON object)"):
        read_arithmetic(tmp_path)


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "vendor", "expected"),
    [
        (True, True, "GenuineIntel", True),
        (False, True, "GenuineIntel", False),  # half the rate of float32
        (False, True, "AuthenticAMD", True),
        (False, False, "AuthenticAMD", False),
        (False, True, None, False),
    ],
)
def test_units_are_used_if_their_products_are_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amx: bool, avx512_bf16: bool, vendor: str | None, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    cpuinfo = tmp_path / "cpuinfo"
    if vendor is not None:
        cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n\nprocessor\t: 1\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(arithmetic, "_CPUINFO", cpuinfo)
    assert has_bf16_units(CPU) is expected


def test_the_vendor_is_none_if_linux_names_none(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU implementer\t: 0x41\n")
    assert cpu_vendor(tmp_path / "cpuinfo") is None
    assert cpu_vendor(tmp_path / "nowhere") is None
