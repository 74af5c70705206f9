"""The executors that settings describe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest

from kdmt.choices import ExecutorName
from kdmt.config import Distill
from kdmt.workers import open as workers
from kdmt.workers.open import EXECUTORS, decodes_on_gpus, num_helpers, open_executor, open_processes
from kdmt.workers.processes import Inline, Processes
from kdmt.workers.ray_actors import RayActors

STAGE = Path("runs/x/distill")


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine have eight cores and no GPU."""
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setattr(workers, "num_gpus", lambda: 0)
    monkeypatch.setattr(
        workers, "devices_of", lambda name: ["cpu"] if name in ("auto", "cpu") else ["cuda:0", "cuda:1"]
    )


def test_every_name_of_the_settings_has_an_executor() -> None:
    assert set(EXECUTORS) == set(get_args(ExecutorName))


def test_processes_use_all_cores_with_their_threads() -> None:
    found = open_executor(Distill(threads=3), STAGE)
    assert found == Processes(2, 3, ["cpu"], STAGE / "logs", 1800.0)
    assert open_executor(Distill(workers=5, silence_minutes=0), STAGE) == Processes(
        5, 1, ["cpu"], STAGE / "logs", math.inf
    )


def test_one_process_for_each_gpu() -> None:
    assert open_processes(STAGE, device="cuda", workers=0, threads=4).workers == 2
    assert open_processes(STAGE, device="cpu", workers=0, threads=99).workers == 1


def test_one_worker_in_this_process() -> None:
    found = open_executor(Distill(executor="inline", threads=2, device="cuda"), STAGE)
    assert found == Inline(threads=2, device="cuda:0", log_folder=STAGE / "logs")


def test_actors_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Distill(executor="ray", threads=2, silence_minutes=0.5)
    assert open_executor(settings, STAGE) == RayActors(
        None, 2, gpus=False, log_folder=STAGE / "logs", silence_seconds=30.0
    )
    monkeypatch.setattr(workers, "num_gpus", lambda: 1)
    found = open_executor(settings.model_copy(update={"workers": 4}), STAGE)
    assert isinstance(found, RayActors)
    assert (found.workers, found.gpus) == (4, True)


def test_helper_processes_are_used_for_large_texts() -> None:
    assert num_helpers(200_000) == 1
    assert num_helpers(200_001) == 8
    assert num_helpers(13_000, compared=True) == 1
    assert num_helpers(14_000, compared=True) == 8


@pytest.mark.parametrize("executor", ["processes", "inline", "ray"])
def test_workers_on_gpus_are_known_before_they_start(executor: ExecutorName, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_gpus(device: str) -> bool:
        return decodes_on_gpus(Distill(executor=executor, device=device))

    assert [on_gpus(device) for device in ("auto", "cpu", "cuda")] == [False, False, True]
    monkeypatch.setattr(workers, "num_gpus", lambda: 2)
    monkeypatch.setattr(workers, "devices_of", lambda name: ["cpu"] if name == "cpu" else ["cuda:0", "cuda:1"])
    assert [on_gpus(device) for device in ("auto", "cpu", "cuda")] == [True, False, True]
