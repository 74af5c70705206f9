"""Choices for CTranslate2 by device: pure functions, and a fake of CTranslate2 that notes its arguments."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdmt.config import Decode
from kdmt.decode.engines import ctranslate2
from kdmt.decode.engines.ctranslate2_devices import (
    MemoryLimit,
    batch_limits,
    batches_in_flight,
    compute_type_on,
    device_indices,
    is_out_of_memory,
    library_hint,
    pick_compute_type,
)
from kdmt.errors import UserError

MISSING = "Library libcublas.so.12 is not found or cannot be loaded"


class FakeCTranslate2(SimpleNamespace):
    """Two GPUs, of which the second has no float16."""

    def __init__(self, error: str = "") -> None:
        super().__init__(made=[], error=error)

    def get_cuda_device_count(self) -> int:
        return 2

    def get_supported_compute_types(self, device: str, device_index: int = 0) -> set[str]:
        assert device == "cuda"
        return {"float32", "bfloat16", "int8_float16"} | ({"float16"} if device_index == 0 else set())

    def Translator(self, folder: str, **options: Any) -> SimpleNamespace:
        if self.error:
            raise RuntimeError(self.error)
        self.made.append((folder, options))
        return SimpleNamespace(compute_type=options["compute_type"])


def fake(monkeypatch: pytest.MonkeyPatch, error: str = "") -> FakeCTranslate2:
    module = FakeCTranslate2(error)
    monkeypatch.setitem(sys.modules, "ctranslate2", module)  # type: ignore[arg-type]
    return module


@pytest.mark.parametrize(
    ("device", "wanted", "supported", "expected"),
    [
        ("cpu", "auto", {"float32", "int8", "bfloat16"}, "float32"),
        ("cpu", "int8", {"float32", "int8"}, "int8"),
        ("cuda", "auto", {"float32", "float16", "bfloat16"}, "float16"),
        ("cuda:1", "auto", {"float32", "bfloat16"}, "bfloat16"),
        ("cuda", "auto", {"float32", "int8"}, "float32"),
        ("cuda", "float32", {"float32", "float16"}, "float32"),
        ("cuda", "int8_float16", {"float16"}, "int8_float16"),
    ],
)
def test_compute_type(device: str, wanted: str, supported: set[str], expected: str) -> None:
    assert pick_compute_type(device, wanted, supported) == expected


def test_compute_type_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch)
    devices = ("cpu", "cuda", "cuda:0", "cuda:1")
    assert [compute_type_on(device, "auto") for device in devices] == ["float32", "float16", "float16", "bfloat16"]
    assert compute_type_on("cuda", "float32") == "float32"


def test_batches_are_larger_on_a_gpu_unless_they_are_set() -> None:
    assert batch_limits(Decode(), "cpu") == Decode()
    default = batch_limits(Decode(), "cuda:0")
    assert (default.batch_size, default.max_tokens) == (1024, 65_536)
    one_set = batch_limits(Decode(batch_size=128, beam=3), "cuda")
    assert (one_set.batch_size, one_set.max_tokens, one_set.beam) == (128, 65_536, 3)
    assert batch_limits(Decode(max_tokens=8000, batch_size=7), "cuda") == Decode(max_tokens=8000, batch_size=7)


def test_devices_and_batches_in_flight() -> None:
    assert device_indices("cpu", 0) == [0]
    assert device_indices("cuda", 3) == [0, 1, 2]
    assert device_indices("cuda:2", 3) == [2]
    assert batches_in_flight("cpu", 1) == 1
    assert batches_in_flight("cuda", 3) == 6


@pytest.mark.parametrize(
    ("device", "indices", "in_flight", "a_device"),
    [("cpu", [0], 1, 1), ("cuda", [0, 1], 4, 2), ("cuda:1", [1], 2, 2)],
)
def test_a_model_is_loaded_on_its_devices(
    monkeypatch: pytest.MonkeyPatch, device: str, indices: list[int], in_flight: int, a_device: int
) -> None:
    module = fake(monkeypatch)
    _, at_once = ctranslate2._load(Path("m"), device, "float16", 3)
    options = {
        "device": device.partition(":")[0],
        "device_index": indices,
        "compute_type": "float16",
        "inter_threads": a_device,
        "intra_threads": 3,
    }
    assert module.made == [("m", options)]
    assert at_once == in_flight
    _, at_once = ctranslate2._load(Path("m"), device, "float16", 3, one_at_a_time=True)
    assert module.made[1][1] == options | {"device_index": indices[:1], "inter_threads": 1}
    assert at_once == 1


def test_the_message_names_the_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library_hint("CUDA failed with error out of memory") == ""
    fake(monkeypatch, MISSING)
    with pytest.raises(UserError, match=r"on cuda as float16: .*libcublas\.so\.12.*pip install nvidia-cublas-cu12"):
        ctranslate2._load(Path("m"), "cuda", "float16", 1)


def test_two_calls_are_started_before_the_first_result_is_used() -> None:
    events = []

    def start(number: int) -> Any:
        events.append(f"start {number}")
        return lambda: number

    for number in ctranslate2._in_flight(map(start, range(3)), 2):
        events.append(f"use {number}")
    assert events == ["start 0", "start 1", "use 0", "start 2", "use 1", "use 2"]
    events.clear()
    assert list(ctranslate2._in_flight(map(start, range(2)), 1)) == [0, 1]


def test_only_errors_of_memory_are_recognised() -> None:
    texts = ("CUDA failed with error out of memory", "cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED")
    assert all(is_out_of_memory(RuntimeError(text)) for text in texts)
    assert not is_out_of_memory(RuntimeError("cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED"))
    assert not is_out_of_memory(ValueError(texts[0]))


def test_the_limit_of_memory_is_halved_once_for_batches_that_fail_together() -> None:
    memory = MemoryLimit()
    with memory.turn(), memory.turn():  # batches do not wait for each other
        pass
    assert memory.sentences(1024, 64) == 1024
    assert memory.lower(65_536)
    assert not memory.lower(65_536)  # the second of two batches in flight
    assert memory.sentences(1024, 64) == 512
    assert memory.sentences(100, 64) == 100
    assert memory.sentences(2, 100_000) == 1
    with memory.turn():
        assert not memory._turn.acquire(blocking=False)  # one at a time
