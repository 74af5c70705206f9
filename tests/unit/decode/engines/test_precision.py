"""Where PyTorch's engines compute in bfloat16, and that a CPU never does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from small_transformers import make_model

from kdmt.config import Decode
from kdmt.decode.engines import pytorch
from kdmt.decode.engines.engine import EngineOptions
from kdmt.decode.engines.precision import computes_in_bf16, products, uses_bf16
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.types import EOS, Sampling

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


def test_bf16_needs_a_gpu_that_has_it_and_a_command_that_leaves_the_choice() -> None:
    assert computes_in_bf16(GPU, "auto", has_bf16=True)
    assert not computes_in_bf16(GPU, "auto", has_bf16=False)
    assert not computes_in_bf16(GPU, "float32", has_bf16=True)
    assert not computes_in_bf16(CPU, "auto", has_bf16=True)
    assert not uses_bf16(CPU, "auto")


def test_float32_is_the_default() -> None:
    assert EngineOptions().precision == TorchEngine(make_model()).precision == "float32"


def test_a_cpu_computes_in_float32() -> None:
    with products(CPU, "auto"):
        assert not torch.is_autocast_enabled("cpu")


def test_float32_has_no_tf32_on_a_gpu() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with products(GPU, "float32"):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_forced_scores_keep_their_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    @contextmanager
    def noted(device: torch.device, precision: str) -> Iterator[None]:
        entered.append((device, precision))
        yield

    monkeypatch.setattr(pytorch, "products", noted)
    engine, sources = TorchEngine(make_model(), precision="auto"), [np.array([4, 5, EOS])]
    engine.score_pairs(sources, sources)
    assert entered == [(CPU, "float32")]
    engine.decode(sources, Decode(beam=2))
    engine.sample(sources, [0], Decode(), Sampling(), seed=1)
    assert entered[1:] == [(CPU, "auto")] * 2


def test_the_cache_of_a_decoder_has_the_type_of_its_keys() -> None:
    model, sources = make_model().float(), torch.tensor([[4, 5, EOS]])
    with torch.inference_mode():
        assert model.start_cache(model.encode(sources), beam=2, max_len=3).self_2NHTC[0].dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cache = model.start_cache(model.encode(sources), beam=2, max_len=3)
    assert {keys.dtype for keys in (*cache.self_2NHTC, *cache.cross_2BHSC)} == {torch.bfloat16}
