"""Training on the GPU: a resumed run ends where an uninterrupted one does, on either device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import simulated_guard
import torch
from gpu_cases import make_objective, make_trainer
from safetensors.torch import load_file
from torch import Tensor

from kdmt.config import Train
from kdmt.corpus.batching import ParallelData
from kdmt.train.data import BinarizedData
from kdmt.train.validation import validation_loss

SETTINGS = {"validate_interval_updates": 3, "save_interval_updates": 3, "log_interval_updates": 1, "max_tokens": 300}
DROPOUT = {"dropout": 0.1}


def train(run: Path, name: str, pairs: ParallelData, device: torch.device, *, updates: int, **settings: Any) -> None:
    settings = {**SETTINGS, **settings}
    make_trainer(run, name, pairs, device, shape=DROPOUT, max_updates=updates, **settings).run()


def weights(run: Path, update: int) -> dict[str, Tensor]:
    return load_file(run / f"checkpoint_{update}" / "model.safetensors")


def losses(run: Path) -> dict[int, float]:
    """Return the training loss by update."""
    records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {record["update"]: record["loss"] for record in records if record["kind"] == "train"}


@pytest.mark.parametrize(
    "name", ["teacher", "word_kd_global", "word_kd_marginal", "ema", "nat_glancing", "ctc_glancing_as_published"]
)
def test_resumed_run_ends_where_an_uninterrupted_one_does(
    name: str, pairs: ParallelData, cuda: torch.device, tmp_path: Path
) -> None:
    """The random numbers of dropout continue."""
    tolerance = 0.0 if simulated_guard.is_loaded() else 1e-3  # atomic additions change the last bits on a real GPU
    train(tmp_path / "whole", name, pairs, cuda, updates=6)
    train(tmp_path / "resumed", name, pairs, cuda, updates=3)
    train(tmp_path / "resumed", name, pairs, cuda, updates=6)
    expected, found = weights(tmp_path / "whole", 6), weights(tmp_path / "resumed", 6)
    assert expected.keys() == found.keys()
    for tensor in expected:
        torch.testing.assert_close(found[tensor], expected[tensor], rtol=0, atol=tolerance, msg=tensor)
    assert losses(tmp_path / "resumed") == pytest.approx(losses(tmp_path / "whole"), rel=tolerance, abs=0)


def test_run_begun_on_the_cpu_continues_on_the_gpu(pairs: ParallelData, cuda: torch.device, tmp_path: Path) -> None:
    for run, devices in (("cpu", ("cpu", "cpu")), ("gpu", ("cpu", cuda))):
        for device, updates in zip(devices, (3, 6), strict=True):
            make_trainer(tmp_path / run, "teacher", pairs, torch.device(device), max_updates=updates, **SETTINGS).run()
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)


def test_micro_batches_of_an_update_and_checkpointed_layers_change_nothing(
    pairs: ParallelData, cuda: torch.device, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "max_updates": 3, "update_freq": 2}
    make_trainer(tmp_path / "cpu", "teacher", pairs, torch.device("cpu"), **settings).run()
    make_trainer(tmp_path / "gpu", "teacher", pairs, cuda, activation_checkpointing=True, **settings).run()
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)


@pytest.mark.parametrize("name", ["teacher", "ctc"])
@pytest.mark.parametrize("num_batches", [1, 4])
def test_the_validation_loss_is_read_once(name: str, num_batches: int, pairs: ParallelData, cuda: torch.device) -> None:
    if not simulated_guard.is_loaded():
        pytest.skip("waits are counted on the simulated device")
    from simulated_cuda import SimulatedCuda

    data = BinarizedData(pairs, Train(max_tokens=300), seed=1)
    batches = data.batches()[:num_batches]
    assert len(batches) == num_batches
    expected = validation_loss(make_objective(name).eval(), data, batches, device=torch.device("cpu"))
    objective, device = make_objective(name).to(cuda).eval(), SimulatedCuda.current
    assert device is not None
    device.counters.reset()
    found = validation_loss(objective, data, batches, device=cuda)
    reads = {place: times for place, times in device.counters.waits.items() if "from" not in place}  # of uploads
    assert list(reads.values()) == [1], reads
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["teacher", "word_kd", "word_kd_cache"])
def test_packed_sentences_are_trained_on_as_on_the_cpu(
    name: str, pairs: ParallelData, cuda: torch.device, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "max_updates": 3, "packing": True, "precision": "float32"}
    for device in (torch.device("cpu"), cuda):
        make_trainer(tmp_path / device.type, name, pairs, device, **settings).run()
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)


def test_bf16_is_chosen_on_the_gpu(pairs: ParallelData, cuda: torch.device, tmp_path: Path) -> None:
    if torch.cuda.get_device_capability(cuda) < (8, 0):
        pytest.skip("a GPU without bf16 units")
    train(tmp_path / "auto", "teacher", pairs, cuda, updates=3, precision="auto")
    train(tmp_path / "float32", "teacher", pairs, cuda, updates=3, precision="float32")
    assert json.loads((tmp_path / "auto" / "arithmetic.json").read_text())["precision"] == "bf16"
    found, expected = losses(tmp_path / "auto"), losses(tmp_path / "float32")
    assert found == pytest.approx(expected, rel=0.02)
    assert found != expected
