"""Tests of traced passes: the results of layers are computed again from the recorded values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdmt.models.architecture import architecture
from kdmt.models.attention import merge_heads, split_heads
from kdmt.models.build import build_transformer
from kdmt.models.transformer import Trace, Transformer
from kdmt.types import EOS, PAD

SRC = torch.tensor([[5, 6, 7, EOS], [8, EOS, PAD, PAD]])
PREV = torch.tensor([[EOS, 9, 10], [EOS, 11, PAD]])
EVERYTHING = frozenset(
    (kind, layer) for kind in ("encoder", "decoder", "encoder_self", "decoder_self", "cross") for layer in range(2)
)


def model(*, normalize_before: bool = False, dropout: float = 0.0) -> Transformer:
    torch.manual_seed(1)
    changes = {f"{side}_normalize_before": normalize_before for side in ("encoder", "decoder")}
    config = architecture("transformer_tiny", {**changes, "dropout": dropout})
    return build_transformer(config, src_vocab_size=16, tgt_vocab_size=16).double()


def traced(made: Transformer) -> tuple[Tensor, Trace]:
    trace = Trace(EVERYTHING)
    features = made.decode(PREV, made.encode(SRC, trace), trace)
    return features, trace


@pytest.mark.parametrize("normalize_before", [False, True])
def test_attention_output_can_be_computed_from_maps(normalize_before: bool) -> None:
    made = model(normalize_before=normalize_before).eval()
    features, trace = traced(made)
    torch.testing.assert_close(features, made.decode(PREV, made.encode(SRC)), rtol=0, atol=0)
    assert set(trace.found) == EVERYTHING
    layer = made.encoder_layers[1]
    before = layer.self_attn_residual.before(trace.found["encoder", 0])
    value = split_heads(layer.self_attn.qkv_proj(before).chunk(3, dim=-1)[2], layer.self_attn.heads)
    attended = layer.self_attn.out_proj(merge_heads(trace.found["encoder_self", 1] @ value))
    keep = SRC.ne(PAD)
    expected = layer.self_attn(before, keep_B11T=keep[:, None, None, :])
    torch.testing.assert_close(attended[keep], expected[keep], rtol=1e-12, atol=1e-14)
    layer, states = made.decoder_layers[1], made.encode(SRC)
    before = layer.self_attn_residual.before(trace.found["decoder", 0])
    value = split_heads(layer.self_attn.qkv_proj(before).chunk(3, dim=-1)[2], layer.self_attn.heads)
    attended = layer.self_attn.out_proj(merge_heads(trace.found["decoder_self", 1] @ value))
    torch.testing.assert_close(attended, layer.self_attn(before, causal=True), rtol=1e-12, atol=1e-14)
    between = layer.cross_attn_residual.before(layer.self_attn_residual.after(trace.found["decoder", 0], attended))
    value = split_heads(layer.cross_attn.kv_proj(states.states_BSD).chunk(2, dim=-1)[1], layer.cross_attn.heads)
    attended = layer.cross_attn.out_proj(merge_heads(trace.found["cross", 1] @ value))
    expected = layer.cross_attn(between, states.states_BSD, keep[:, None, None, :])
    torch.testing.assert_close(attended, expected, rtol=1e-12, atol=1e-14)


def test_maps_sum_to_one_over_visible_keys() -> None:
    found = traced(model().eval())[1].found
    for kind in ("encoder_self", "decoder_self", "cross"):
        for layer in range(2):
            torch.testing.assert_close(found[kind, layer].sum(-1), torch.ones_like(found[kind, layer][..., 0]))
    assert not found["cross", 0][1, :, :, 2:].any()
    assert not found["encoder_self", 0][1, :, :, 2:].any()
    assert not found["decoder_self", 1].triu(1).any()


def test_states_equal_outputs_of_layers() -> None:
    made = model().eval()
    features, trace = traced(made)
    assert torch.equal(trace.found["decoder", 1], features)
    assert torch.equal(trace.found["encoder", 1], made.encode(SRC).states_BSD)


def test_only_requested_values_are_recorded() -> None:
    trace = Trace(frozenset({("encoder", 1), ("cross", 0)}))
    made = model().eval()
    made.decode(PREV, made.encode(SRC, trace), trace)
    assert set(trace.found) == trace.wanted


def test_gradients_flow_through_recorded_values() -> None:
    """In-place additions do not change the recorded states of earlier layers, and gradients reach the first layer."""
    made = model(dropout=0.3).train()
    _, trace = traced(made)
    sum(each.square().sum() for each in trace.found.values()).backward()  # type: ignore[union-attr]
    first = made.encoder_layers[0].self_attn.qkv_proj.weight
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()
    assert first.grad.any()


def test_maps_are_float32_with_bf16_autocast() -> None:
    made = model().float().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, trace = traced(made)
    for (kind, _), found in trace.found.items():
        if kind not in ("encoder", "decoder"):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.sum(-1), torch.ones_like(found.sum(-1)), rtol=0, atol=1e-6)
