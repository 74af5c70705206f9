"""Tests of attention against nn.MultiheadAttention with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from kdmt.models.attention import CrossAttention, SelfAttention, merge_heads, split_heads

BATCH, LENGTH, SOURCE, DIM, ENCODER_DIM, HEADS = 3, 5, 7, 12, 8, 4
KEEP_BS = torch.arange(SOURCE) < torch.tensor([7, 2, 4])[:, None]


def self_attention() -> tuple[SelfAttention, nn.MultiheadAttention]:
    torch.manual_seed(1)
    ours = randomised(SelfAttention(DIM, HEADS, dropout=0.0))
    peer = nn.MultiheadAttention(DIM, HEADS, batch_first=True, dtype=torch.float64)
    peer.in_proj_weight, peer.in_proj_bias = ours.qkv_proj.weight, ours.qkv_proj.bias
    peer.out_proj = ours.out_proj
    return ours, peer


def cross_attention() -> tuple[CrossAttention, nn.MultiheadAttention]:
    torch.manual_seed(2)
    ours = randomised(CrossAttention(DIM, ENCODER_DIM, HEADS, dropout=0.0))
    peer = nn.MultiheadAttention(DIM, HEADS, kdim=ENCODER_DIM, vdim=ENCODER_DIM, batch_first=True, dtype=torch.float64)
    key, value = ours.kv_proj.weight.detach().chunk(2)
    peer.q_proj_weight, peer.k_proj_weight, peer.v_proj_weight = map(
        nn.Parameter, (ours.q_proj.weight.detach(), key, value)
    )
    peer.in_proj_bias = nn.Parameter(torch.cat([ours.q_proj.bias.detach(), ours.kv_proj.bias.detach()]))
    peer.out_proj = ours.out_proj
    return ours, peer


def randomised(module: nn.Module) -> nn.Module:
    """Return the module in float64 with all parameters random, including biases."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def random_states(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_heads_are_split_and_merged_without_loss() -> None:
    x_BTD = random_states(BATCH, LENGTH, DIM)
    split = split_heads(x_BTD, HEADS)
    assert split.shape == (BATCH, HEADS, LENGTH, DIM // HEADS)
    assert torch.equal(split[1, 2, 3], x_BTD[1, 3, 2 * 3 : 3 * 3])
    assert torch.equal(merge_heads(split), x_BTD)


def test_self_attention_with_padding_equals_torch() -> None:
    ours, peer = self_attention()
    x_BSD = random_states(BATCH, SOURCE, DIM)
    expected, _ = peer(x_BSD, x_BSD, x_BSD, key_padding_mask=~KEEP_BS)
    torch.testing.assert_close(ours(x_BSD, keep_B11T=KEEP_BS[:, None, None]), expected)


def test_causal_self_attention_equals_torch() -> None:
    ours, peer = self_attention()
    x_BTD = random_states(BATCH, LENGTH, DIM)
    future_TT = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    expected, _ = peer(x_BTD, x_BTD, x_BTD, attn_mask=future_TT)
    torch.testing.assert_close(ours(x_BTD, causal=True), expected)


def test_cross_attention_over_states_of_other_width_equals_torch() -> None:
    ours, peer = cross_attention()
    x_BTD, states_BSD = random_states(BATCH, LENGTH, DIM), random_states(BATCH, SOURCE, ENCODER_DIM)
    expected, _ = peer(x_BTD, states_BSD, states_BSD, key_padding_mask=~KEEP_BS)
    torch.testing.assert_close(ours(x_BTD, states_BSD, KEEP_BS[:, None, None]), expected)


def test_self_attention_steps_equal_causal_pass() -> None:
    ours, _ = self_attention()
    x_NTD = random_states(BATCH, LENGTH, DIM)
    # cache entries that are not written yet must not be read
    cache = torch.full((2, BATCH, HEADS, LENGTH + 2, DIM // HEADS), math.nan, dtype=torch.float64)
    steps = [ours.step(x_NTD[:, position], cache, position) for position in range(LENGTH)]
    torch.testing.assert_close(torch.stack(steps, dim=1), ours(x_NTD, causal=True))


def test_cross_attention_step_equals_full_pass_with_several_rows() -> None:
    ours, _ = cross_attention()
    rows_a_sentence = 2
    x_ND, states_BSD = random_states(BATCH * rows_a_sentence, DIM), random_states(BATCH, SOURCE, ENCODER_DIM)
    keep_B11S = KEEP_BS[:, None, None]
    found_ND = ours.step(x_ND, ours.keys_values(states_BSD), keep_B11S)
    expected_BKD = ours(x_ND.view(BATCH, rows_a_sentence, DIM), states_BSD, keep_B11S)
    torch.testing.assert_close(found_ND, expected_BKD.flatten(0, 1))


@pytest.mark.parametrize("make", [self_attention, cross_attention])
def test_attention_dropout_is_applied_only_in_training(make: object) -> None:
    ours, _ = make()
    ours.dropout = 0.5
    states = random_states(BATCH, SOURCE, DIM if isinstance(ours, SelfAttention) else ENCODER_DIM)
    arguments = (states,) if isinstance(ours, SelfAttention) else (random_states(BATCH, LENGTH, DIM), states, None)
    ours.train()
    assert not torch.equal(ours(*arguments), ours(*arguments))
    ours.eval()
    evaluated = ours(*arguments)
    ours.dropout = 0.0
    assert torch.equal(evaluated, ours(*arguments))


def assert_xavier_uniform(weight: Tensor, gain: float) -> None:
    """Check that the largest weight is close to the bound gain * sqrt(6 / (fan_in + fan_out)) of Xavier's uniform."""
    bound = gain * math.sqrt(6 / sum(weight.shape))
    assert 0.98 * bound < float(weight.detach().abs().max()) <= bound


def test_self_attention_is_initialised_as_in_fairseq() -> None:
    torch.manual_seed(1)
    attention = SelfAttention(64, 4, dropout=0.0)
    for part in attention.qkv_proj.weight.chunk(3):  # each matrix has its own fan, not that of the stack
        assert_xavier_uniform(part, 1 / math.sqrt(2))
    assert_xavier_uniform(attention.out_proj.weight, 1.0)
    assert not attention.out_proj.bias.any()


@pytest.mark.parametrize(("encoder_dim", "gain"), [(64, 1 / math.sqrt(2)), (48, 1.0)])
def test_cross_attention_is_initialised_as_in_fairseq(encoder_dim: int, gain: float) -> None:
    torch.manual_seed(1)
    attention = CrossAttention(64, encoder_dim, 4, dropout=0.0)
    assert_xavier_uniform(attention.q_proj.weight, gain)
    for part in attention.kv_proj.weight.chunk(2):
        assert_xavier_uniform(part, gain)
    assert not attention.out_proj.bias.any()
