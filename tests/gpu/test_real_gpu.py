"""What the simulated device cannot show: waits of CUDA itself, NCCL, compiled layers, CTranslate2. Needs a GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from gpu_cases import make_batch, make_objective, make_trainer
from small_transformers import make_model, make_sources, symbols, vocabulary_sizes
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from kdmt.config import Decode
from kdmt.corpus.batching import ParallelData
from kdmt.corpus.packing import PackingShape, pack
from kdmt.interop.ctranslate2_export import export_model
from kdmt.models.packed_attention import load_flash, packed_attention, uses_flash
from kdmt.objectives.objective import Objective, Prepared
from kdmt.ranks import ALONE
from kdmt.train.distributed import ParallelObjective

SETTINGS = {"max_tokens": 300, "log_interval_updates": 1, "validate_interval_updates": 1000}


def records(run: Path) -> list[dict[str, Any]]:
    """Return the log records of the updates."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == "train"]


# ------------------------------------------------------------------------------------------------------- host waits


@pytest.mark.parametrize("name", ["teacher", "word_kd"])
def test_forward_and_backward_do_not_wait(name: str, pairs: ParallelData, real_gpu: torch.device) -> None:
    objective = make_objective(name).to(real_gpu).train()
    objective.use("bf16")
    prepared = objective.prepare(make_batch(name, pairs).pin_memory().to(real_gpu))
    for mode in ("default", "error"):  # memory is allocated in the first pass, for which CUDA may wait
        torch.cuda.set_sync_debug_mode(mode)
        try:
            terms = objective(prepared)
            torch.stack([term.sum * term.weight for term in terms.values() if term.weight]).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_new_batch_shapes_cost_no_time(pairs: ParallelData, real_gpu: torch.device, tmp_path: Path) -> None:
    """cuDNN's attention would build a plan for each new shape, which takes from 23 ms to 1 s."""
    make_trainer(tmp_path, "teacher", pairs, real_gpu, max_updates=40, precision="bf16", **SETTINGS).run()
    assert median(record["seconds"] for record in records(tmp_path)[10:]) < 0.05


# -------------------------------------------------------------------------------------------------- packed sentences


@pytest.mark.parametrize("causal", [False, True])
def test_flash_attention_over_packed_sentences_is_near_the_padded_one(causal: bool, real_gpu: torch.device) -> None:
    """In bf16, with sequences of padding and of length 0: outputs of real tokens, and gradients, which are finite."""
    load_flash()
    shape, lengths = PackingShape(max_tokens=200, max_length=40, max_sentences=12), np.array([40, 1, 17, 33, 8])
    _, packing = pack(np.full(lengths.sum(), 7), lengths, shape)
    packing = packing.map(lambda tensor: tensor.to(real_gpu))
    torch.manual_seed(1)
    inputs = torch.randn(3, shape.num_positions, 4, 32, device=real_gpu)
    weights = torch.randn(packing.num_tokens, 4, 32, device=real_gpu)
    results = []
    for dtype in (torch.float32, torch.bfloat16):  # padded, flash
        own = inputs.to(dtype).requires_grad_()
        assert uses_flash("cuda", dtype, 32) == (dtype == torch.bfloat16)
        found = packed_attention(own[0], own[1], own[2], packing, packing, causal=causal)[: packing.num_tokens]
        (gradient,) = torch.autograd.grad((found.float() * weights).sum(), own)
        assert gradient.isfinite().all()
        results.append((found.float(), gradient.float()[:, : packing.num_tokens]))
    for expected, close in zip(*results, strict=True):
        assert (close - expected).norm() < 0.02 * expected.norm()


# ---------------------------------------------------------------------------------------------- parallel training


@pytest.fixture
def nccl(real_gpu: torch.device, tmp_path: Path) -> Iterator[torch.device]:
    """Start a process group of one rank over NCCL."""
    start_group("cpu:gloo,cuda:nccl", tmp_path)
    yield real_gpu
    distributed.destroy_process_group()


def start_group(backend: str, folder: Path) -> None:
    distributed.init_process_group(backend, init_method=f"file://{folder / 'ranks'}", rank=0, world_size=1)


def gradients(parallel: ParallelObjective, prepared: Prepared) -> dict[str, Tensor]:
    """Return the whole gradients of a batch in bf16, computed by the wrapped objective."""
    parallel.objective.use("bf16")
    parallel.module.train()
    with parallel.accumulating(last=True):
        terms = parallel.module(prepared)
        total = torch.stack([term.sum * (term.weight / term.count) for term in terms.values() if term.weight]).sum()
        total.backward()
    found = {name: each.grad for name, each in parallel.objective.model.named_parameters() if each.grad is not None}
    return {name: parallel.whole(grad).detach().cpu().double() for name, grad in found.items()}


def make_parallel(objective: Objective, kind: str, device: torch.device) -> ParallelObjective:
    """Wrap an objective as for several ranks, although there is one."""
    parallel = ParallelObjective(objective, parallel="ddp", ranks=ALONE, device=device)
    if kind == "ddp":
        device_ids = [device.index] if device.type == "cuda" else None
        parallel.module = DistributedDataParallel(objective, device_ids=device_ids, gradient_as_bucket_view=True)
    if kind == "fsdp":
        parallel._shard(device)
        parallel.sharded = True
    return parallel


def check_parallel(kind: str, pairs: ParallelData, device: torch.device) -> None:
    found = []
    for each in ("alone", kind):
        parallel = make_parallel(make_objective("teacher"), each, device)
        found.append(gradients(parallel, parallel.objective.prepare(make_batch("teacher", pairs).to(device))))
        collected = parallel.collect(dict(parallel.objective.model.named_parameters()))
        assert all(type(tensor) is Tensor and tensor.device.type == "cpu" for tensor in collected.values())
    expected, whole = found
    assert expected.keys() == whole.keys()
    for name, gradient in expected.items():
        assert float((whole[name] - gradient).norm()) <= 0.02 * float(gradient.norm()) + 1e-6, name


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_gradients_of_one_rank_over_nccl_are_those_without_ranks(
    kind: str, pairs: ParallelData, nccl: torch.device
) -> None:
    check_parallel(kind, pairs, nccl)


# ------------------------------------------------------------------------------------------------ compiled layers


def check_compiled(pairs: ParallelData, device: torch.device, folder: Path) -> None:
    from torch._dynamo.utils import counters

    for name in ("eager", "compiled"):
        counters.clear()
        trainer = make_trainer(
            folder / name, "teacher", pairs, device, max_updates=12, compile=name == "compiled", **SETTINGS
        )
        trainer.run()
    assert 0 < counters["stats"]["unique_graphs"] <= 8
    expected, found = ([record["loss"] for record in records(folder / name)] for name in ("eager", "compiled"))
    assert found == pytest.approx(expected, rel=0.02)


def test_compiled_layers_train_as_others_with_few_programs(
    pairs: ParallelData, real_gpu: torch.device, tmp_path: Path
) -> None:
    pytest.importorskip("triton")
    check_compiled(pairs, real_gpu, tmp_path)


# ---------------------------------------------------------------------------------------------------- CTranslate2


def check_ctranslate2(device: str, compute_type: str, folder: Path, *, least_equal: float) -> None:
    """Check that CTranslate2 on a device finds what it finds on the CPU in float32, for a share of the sentences."""
    from kdmt.decode.engines.ctranslate2 import CTranslate2Engine

    model = make_model()
    src_size, tgt_size = vocabulary_sizes(model.config)
    export_model(model, folder, src_symbols=symbols(src_size, "s"), tgt_symbols=symbols(tgt_size, "t"))
    sources = make_sources([5, 1, 9, 1, 3, 7, 3, 12] * 4)
    settings = Decode(beam=5, max_len_a=0.0, max_len_b=24)
    expected = CTranslate2Engine(folder, compute_type="float32").decode(sources, settings)
    found = CTranslate2Engine(folder, device=device, compute_type=compute_type).decode(sources, settings)
    equal = sum(one[0].tokens == other[0].tokens for one, other in zip(found, expected, strict=True))
    assert equal >= least_equal * len(sources)


@pytest.mark.parametrize(("compute_type", "least_equal"), [("float32", 1.0), ("float16", 0.7)])
def test_ctranslate2_finds_what_it_finds_on_the_cpu(
    compute_type: str, least_equal: float, real_gpu: torch.device, tmp_path: Path
) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    if not ctranslate2.get_cuda_device_count():
        pytest.skip("CTranslate2 finds no GPU")
    check_ctranslate2(str(real_gpu), compute_type, tmp_path / "model", least_equal=least_equal)
