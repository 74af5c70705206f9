"""Measured speeds: tokens per second of training time, and the share of the time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from copy_task import CPU, make_model

from kdmt.objectives.build import build_objective
from kdmt.ranks import ALONE
from kdmt.train import meter as module
from kdmt.train.data import Prefetched, Step
from kdmt.train.meter import Meter, peak_memory


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "perf_counter", made.perf_counter)
    return made


def no_steps() -> Iterator[Step]:
    return iter(())


def test_tokens_per_second_exclude_time_outside_training(clock: Clock) -> None:
    meter = Meter(CPU, build_objective(make_model(), label_smoothing=0.1))
    prefetched = Prefetched(no_steps(), depth=1)
    meter.start(prefetched)
    clock.now += 4.0
    meter.count([], 300.0)
    with meter.paused():
        clock.now += 100.0
    prefetched.waited += 1.0
    meter.count([], 100.0)
    figures = meter.read(ALONE)
    assert figures["seconds"] == 4.0
    assert figures["tokens_per_second"] == 100.0
    assert figures["data_wait"] == 0.25
    assert "model_flops_utilisation" not in figures  # only for GPUs whose peak is known


def test_a_reset_starts_from_zero(clock: Clock) -> None:
    meter = Meter(CPU, build_objective(make_model(), label_smoothing=0.1))
    prefetched = Prefetched(no_steps(), depth=1)
    prefetched.waited = 9.0
    meter.start(prefetched)
    clock.now += 1.0
    meter.count([], 50.0)
    meter.reset()
    clock.now += 2.0
    meter.count([], 10.0)
    figures = meter.read(ALONE)
    assert (figures["tokens_per_second"], figures["data_wait"]) == (5.0, 0.0)


def test_peak_memory_grows_with_allocated_memory() -> None:
    before = peak_memory(CPU)
    held = torch.ones(before // 4 + 30_000_000)
    assert peak_memory(CPU) >= before + held.numel()
    assert time.perf_counter() > 0
