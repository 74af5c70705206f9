"""Several ranks under torchrun, with gloo on the CPU: the same training as in one process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from copy_task import write_copy_task
from safetensors.torch import load_file

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

WORKER = Path(__file__).with_name("rank_worker.py")

# Parts of very different size, and an odd number of them: one rank is idle at the end of an epoch.
CUTS = [0, 1, 12, 20, 23, 40, 41, 55, 60, 61]
PARTS = [list(range(start, end)) for start, end in pairwise(CUTS)]
JOINED = [[*one, *other] for one, other in zip(PARTS[::2], [*PARTS[1::2], []], strict=True)]
IN_FOURS = [[index for part in PARTS[start : start + 4] for index in part] for start in range(0, len(PARTS), 4)]
UPDATES = 15  # three epochs
SETTINGS = {"clip_norm": 0.5, "weight_decay": 0.01, "validate_interval_updates": UPDATES}

# Attention does not change when the same vector is added to all keys: the gradient of their bias is zero except for
# rounding errors, which Adam scales up to full steps.
KEY_BIAS = re.compile(r"(qkv|kv)_proj\.bias$")


Trainings = tuple[Path, str]  # a folder of runs, and the standard error of the single processes

SPLITS: dict[str, tuple[int, dict[str, Any]]] = {
    "update_freq": (1, {"update_freq": 2}),
    "ddp": (2, {}),
    "fsdp": (2, {"parallel": "fsdp"}),
    "recomputing": (2, {"activation_checkpointing": True}),
}
MORE_SPLITS: dict[str, tuple[int, dict[str, Any]]] = {
    "ddp, update_freq": (2, {"update_freq": 2}),
    "fsdp, update_freq": (2, {"parallel": "fsdp", "update_freq": 2}),
    "fsdp, recomputing": (2, {"parallel": "fsdp", "update_freq": 2, "activation_checkpointing": True}),
}
TOLERANCES = {"float64": 1e-9, "float32": 1e-5}  # type of the parameters -> largest difference
OBJECTIVES = (
    "teacher",
    "ema",
    "ctc",
    "ssru",
    "denoising",
)  # a frozen teacher and a learned projection; a moving teacher; no teacher and no causal mask; tied layers with SSRUs;
# two passes of the encoder and of the decoder


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """Run all trainings that the tests compare: starting processes takes longer than training in them."""
    folder = tmp_path_factory.mktemp("ranks")
    write_copy_task(folder / "data", 61, seed=1)
    jobs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}

    def add(
        name: str,
        world: int,
        batches: Sequence[Sequence[int]],
        dtype: str,
        dropout: float,
        *,
        objective: str = "plain",
        **settings: Any,
    ) -> None:
        jobs[world].append(
            {
                "run": str(folder / name),
                "data": str(folder / "data"),
                "batches": batches,
                "dtype": dtype,
                "dropout": dropout,
                "objective": objective,
                "settings": {**SETTINGS, **settings},
            }
        )

    for dtype in TOLERANCES:
        add(f"joined.{dtype}", 1, JOINED, dtype, 0.0, max_updates=UPDATES)
        for name, (world, settings) in SPLITS.items():
            add(f"{name}.{dtype}", world, PARTS, dtype, 0.0, **settings, max_updates=UPDATES)
    for objective in OBJECTIVES:
        of = {"objective": objective, "max_updates": UPDATES}
        add(f"joined.{objective}", 1, JOINED, "float64", 0.0, **of)
        for parallel in ("ddp", "fsdp"):
            add(f"{parallel}.{objective}", 2, PARTS, "float64", 0.0, parallel=parallel, **of)
    for name, world, batches, parallel in (
        ("joined", 1, JOINED, "ddp"),
        ("ddp", 2, PARTS, "ddp"),
        ("fsdp", 2, PARTS, "fsdp"),
    ):
        add(f"{name}.average", world, batches, "float64", 0.0, parallel=parallel, max_updates=UPDATES, ema=0.9)
    add("joined in fours", 1, IN_FOURS, "float64", 0.0, max_updates=UPDATES)
    for name, (world, settings) in MORE_SPLITS.items():
        add(name, world, PARTS, "float64", 0.0, **settings, max_updates=UPDATES)
    tens = {"validate_interval_updates": 10}
    for parallel in ("ddp", "fsdp"):
        for run, max_updates in (("straight", 20), ("stopped", 10), ("stopped", 20)):
            add(f"{run}.{parallel}", 2, PARTS, "float32", 0.1, parallel=parallel, max_updates=max_updates, **tens)
    add("fewer_ranks", 2, PARTS, "float64", 0.0, parallel="fsdp", max_updates=20, **tens)
    add("fewer_ranks", 1, PARTS, "float64", 0.0, update_freq=2, max_updates=30, **tens)
    add("one_rank", 1, JOINED, "float64", 0.0, max_updates=30, **tens)
    start(folder, 2, jobs[2])
    return folder, start(folder, 1, jobs[1])


def start(folder: Path, world: int, jobs: list[dict[str, Any]]) -> str:
    """Train in `world` processes and return their standard error."""
    path = folder / f"jobs{world}.json"
    path.write_text(json.dumps(jobs))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"] if world > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def weights(run: Path, update: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoint_{update}" / "model.safetensors")


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        own, other = found[name], tensor
        if KEY_BIAS.search(name) and tensor.dtype == torch.float32:
            own, other = (without_key_bias(name, each) for each in (own, other))
        torch.testing.assert_close(own, other, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def without_key_bias(name: str, bias: torch.Tensor) -> torch.Tensor:
    if "qkv_proj" in name:
        query, _, value = bias.chunk(3)
        return torch.cat([query, value])
    return bias.chunk(2)[1]


@pytest.mark.parametrize(("dtype", "atol"), TOLERANCES.items())
@pytest.mark.parametrize("name", SPLITS)
def test_other_splits_of_an_update_give_the_same_parameters(
    trainings: Trainings, name: str, dtype: str, atol: float
) -> None:
    run, joined = trainings[0] / f"{name}.{dtype}", trainings[0] / f"joined.{dtype}"
    assert_near(weights(run, UPDATES), weights(joined, UPDATES), atol=atol)
    ours, theirs = ([json.loads(line) for line in (each / "metrics.jsonl").open()] for each in (run, joined))
    for own, other in zip(ours, theirs, strict=True):
        for figure in ("loss", "nll", "grad_norm") if own["kind"] == "train" else ():
            assert own[figure] == pytest.approx(other[figure], rel=atol)


@pytest.mark.parametrize("name", MORE_SPLITS)
def test_gradients_are_exchanged_once_an_update_and_equal_those_of_the_joined_batch(
    trainings: Trainings, name: str
) -> None:
    split, joined = (weights(trainings[0] / run, UPDATES) for run in (name, "joined in fours"))
    assert_near(split, joined, atol=1e-9)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_resume_exactly(trainings: Trainings, parallel: str) -> None:
    """Check this with dropout: each rank has its own random state, which is restored."""
    files = [f"{folder}/checksums.json" for folder in ("checkpoint_20", "average", "average_best")]
    for name in (*files, "chosen.json"):
        straight, stopped = (
            (trainings[0] / f"{run}.{parallel}" / name).read_bytes() for run in ("straight", "stopped")
        )
        assert stopped == straight


def test_number_of_ranks_may_change_with_a_message(trainings: Trainings) -> None:
    folder, stderr = trainings
    assert "going on from checkpoint_20" in stderr
    assert "saved by 2 rank(s), goes on with 1 on cpu: parameters, optimiser and place in the data are kept;" in stderr
    assert_near(weights(folder / "fewer_ranks", 30), weights(folder / "one_rank", 30), atol=1e-9)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("objective", [*OBJECTIVES, "average"])
def test_other_objectives_can_be_split_over_ranks(trainings: Trainings, objective: str, parallel: str) -> None:
    """Compare also what a checkpoint saves in addition to the student: the projections and the moving teacher.

    With `average`, the model is the moving average of the trained weights.
    """
    run, joined = (trainings[0] / f"{how}.{objective}" / f"checkpoint_{UPDATES}" for how in (parallel, "joined"))
    states = [load_file(folder / "training_state.safetensors") for folder in (run, joined)]
    extra = [
        {name: tensor for name, tensor in state.items() if name.startswith(("objective.", "teacher.", "trained."))}
        for state in states
    ]
    assert bool(extra[1]) == (objective not in ("ctc", "ssru", "denoising"))
    assert_near(extra[0], extra[1], atol=1e-9)
    assert_near(load_file(run / "model.safetensors"), load_file(joined / "model.safetensors"), atol=1e-9)
