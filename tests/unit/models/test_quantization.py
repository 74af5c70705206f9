"""Fake quantisation: formulas in numpy, straight-through gradients, and the int8 products of CTranslate2."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from small_transformers import POST_NORM, make_model, make_sources, symbols
from torch import Tensor, nn
from torch.nn import functional as F

from kdmt.config import Decode
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.interop.ctranslate2_export import export_model
from kdmt.models.architecture import TransformerConfig
from kdmt.models.quantization import int8_weights, make_quantization_aware, round_inputs, round_to_int8
from kdmt.models.transformer import Transformer
from kdmt.train.distributed import replaced
from kdmt.types import EOS

MARIAN = replace(POST_NORM, layout="marian", share_all_embeddings=True)
SSRU = replace(MARIAN, decoder="ssru", tied_decoder_layers=True)


def rounded(values: np.ndarray) -> np.ndarray:
    """Return the values rounded with one scale, by the formula."""
    scale = np.abs(values).max() / 127
    return values if scale == 0 else np.rint(values / scale) * scale


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------- the formula


def test_rows_are_rounded_by_the_formula() -> None:
    values = normal(3, 4, 7)
    values[1, 2] = 0.0
    found = round_to_int8(values).numpy()
    assert found == pytest.approx(np.apply_along_axis(rounded, -1, values.numpy()), abs=1e-12)
    assert not found[1, 2].any()
    assert round_to_int8(values, by_row=False).numpy() == pytest.approx(rounded(values.numpy()), abs=1e-12)


def test_halves_are_rounded_to_even_and_the_largest_value_is_kept() -> None:
    values = torch.tensor([[127.0, -126.5, 0.5, 1.5, -2.5, 0.49]])
    assert round_to_int8(values).tolist() == [[127.0, -126.0, 0.0, 2.0, -2.0, 0.0]]
    assert round_to_int8(-3 * values).tolist() == [[-381.0, 378.0, 0.0, -6.0, 6.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rounded_values_are_rounded_to_themselves(dtype: torch.dtype) -> None:
    once = round_to_int8(normal(20, 33).to(dtype))
    assert once.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps  # of the division and multiplication by the scale
    assert torch.allclose(round_to_int8(once), once, rtol=tolerance, atol=0.0)


# ----------------------------------------------------------------------------------------- straight-through gradients


def test_the_gradient_of_a_product_is_that_of_the_rounded_numbers() -> None:
    """With y = q(x) q(W)^T: dL/dx = dL/dy q(W), and dL/dW = (dL/dy)^T q(x)."""
    layer = nn.Linear(6, 5, dtype=torch.float64)
    x, upstream = normal(4, 6, seed=1).requires_grad_(), normal(4, 5, seed=2)
    weight_OI = round_to_int8(layer.weight.detach())
    x_int8 = round_to_int8(x.detach())
    with replaced(layer, int8_weights(layer, "int8")):
        y = layer(round_inputs(x))
        assert torch.allclose(y, x_int8 @ weight_OI.T + layer.bias)
        y.backward(upstream)
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert torch.allclose(x.grad, upstream @ weight_OI)
    assert torch.allclose(layer.weight.grad, upstream.T @ x_int8)


def test_the_gradient_is_that_of_a_shift_of_the_rounded_numbers() -> None:
    """The straight-through gradient is the true one of L(q(x) + a, q(W) + b) with respect to a and b at 0."""
    x, weight = normal(3, 6).requires_grad_(), normal(5, 6, seed=1)
    x_int8, weight_int8 = round_to_int8(x.detach()), round_to_int8(weight)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(F.linear(x_int8 + a, weight_int8 + b)).pow(2).sum()

    a, b = torch.zeros_like(x_int8, requires_grad=True), torch.zeros_like(weight, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (a, b))
    by_shift = torch.autograd.grad(loss(a, b), a)[0]
    torch.tanh(F.linear(round_inputs(x), weight_int8)).pow(2).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, by_shift)


# ---------------------------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("config", [POST_NORM, MARIAN, SSRU], ids=["fairseq", "marian", "ssru"])
def test_weights_and_embeddings_are_rounded_and_nothing_else(config: TransformerConfig) -> None:
    model = make_model(config)
    found = int8_weights(model, "int8")
    for name, parameter in model.named_parameters():
        own = parameter.detach().numpy()
        is_matrix = own.ndim == 2
        assert (name in found) == is_matrix, name
        if is_matrix:
            expected = np.stack([rounded(row) for row in own])
            assert found[name].numpy() == pytest.approx(expected, abs=1e-12)
            assert np.abs(found[name].numpy() - own).max() > 0


def test_learned_positions_are_not_rounded() -> None:
    model = make_model(replace(POST_NORM, encoder_learned_pos=True, decoder_learned_pos=True))
    assert not any("positions" in name for name in int8_weights(model, "int8"))


def test_one_scale_for_each_matrix_that_marian_has() -> None:
    model = make_model(MARIAN)
    found, own = int8_weights(model, "int8_matrix"), dict(model.named_parameters())
    stacked = {"self_attn.qkv_proj.weight": 3, "cross_attn.kv_proj.weight": 2}
    for name, weight in found.items():
        parts = next((number for suffix, number in stacked.items() if name.endswith(suffix)), 1)
        bounds = np.linspace(0, len(weight), parts + 1).astype(int)
        for first, end in pairwise(bounds):
            expected = rounded(own[name].detach().numpy()[first:end])
            assert weight[first:end].numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("config", [POST_NORM, MARIAN, SSRU], ids=["fairseq", "marian", "ssru"])
def test_features_and_steps_have_the_same_rounded_logits(config: TransformerConfig) -> None:
    """Losses apply the output projection to `decode`; `forward` and decoding call the module."""
    model = make_model(config)
    sources, targets = torch.tensor([[5, 9, 7, 2]]), torch.tensor([[2, 4, 8, 6, 11]])
    with torch.no_grad():
        before = model(sources, targets)
        make_quantization_aware(model)
        with replaced(model, int8_weights(model, "int8")):
            whole = model(sources, targets)
            features = model.decode(targets, model.encode(sources))
            assert torch.allclose(features @ model.output_weight_VD.T, whole)
            assert float((whole - before).abs().max()) > 1e-4
            engine = TorchEngine(model)
            ((found,),) = engine.decode([sources[0].numpy()], Decode(beam=2, max_len_b=3))
            (log_probs,) = engine.score_pairs([sources[0].numpy()], [np.array([*found.tokens, EOS])])
            assert found.score == pytest.approx(log_probs.mean(), abs=1e-6)


def make_deployable(seed: int) -> tuple[Transformer, list[np.ndarray], list[np.ndarray]]:
    config = replace(POST_NORM, encoder_embed_dim=32, decoder_embed_dim=32, encoder_ffn_embed_dim=64)
    model = make_model(config, seed=seed, dtype=torch.float32)
    lengths = [5, 1, 9, 3, 7, 12]
    return model, make_sources(lengths), make_sources([4, 2, 11, 3, 8, 14], seed=1)


def test_ctranslate2_in_int8_computes_what_the_rounded_model_does(tmp_path: Path) -> None:
    differences: dict[str, list[float]] = {"rounded": [], "float": []}
    for seed in range(3):
        model, sources, targets = make_deployable(seed)
        folder = tmp_path / str(seed)
        export_model(model, folder, src_symbols=symbols(15, "s"), tgt_symbols=symbols(18, "t"))
        of_engine = CTranslate2Engine(folder, compute_type="int8_float32").score_pairs(sources, targets)
        scored = {"float": TorchEngine(model).score_pairs(sources, targets)}
        make_quantization_aware(model)
        with replaced(model, int8_weights(model, "int8")):
            scored["rounded"] = TorchEngine(model).score_pairs(sources, targets)
        for name, scores in scored.items():
            differences[name] += [float(np.abs(a - b).mean()) for a, b in zip(scores, of_engine, strict=True)]
    assert np.mean(differences["rounded"]) < 0.25 * np.mean(differences["float"])
