"""The forward pass of Marian's Transformer in NumPy, one sentence at a time, from the formulas of the papers.

Marian has one value for each option of both sides. A sentence is a list of ids; weights are those of a kdmt model by
name. Nothing of `kdmt.models` is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def log_probs(weights: Weights, src: Sequence[int], tgt: Sequence[int], *, heads: int) -> Array:
    """Return the log-probabilities of each token of a target at each of its positions, teacher-forced: [T, V].

    Args:
        weights: weights of a post-norm model with ReLU. Both sides have the same embeddings or different ones; decoder
            layers have self-attention or an SSRU.
        src: ids of the source, including </s>.
        tgt: ids of the target, including </s>. Its last token is not an input.
    """
    tgt_table = weights.get("tgt_embed.tokens.weight", weights["src_embed.tokens.weight"])
    output = weights.get("output_proj.weight", tgt_table)
    states = encode(weights, src, heads=heads)
    width = tgt_table.shape[1]
    inputs = np.concatenate([np.zeros((1, width)), tgt_table[list(tgt[:-1])]])  # the first input is a zero vector
    x = inputs * math.sqrt(width) + sinusoids(len(tgt), width)
    causal = np.tril(np.ones((len(tgt), len(tgt)), dtype=bool))
    for layer in range(_num_layers(weights, "decoder")):
        name = f"decoder_layers.{layer}"
        if f"{name}.ssru.state_proj.weight" in weights:
            update = ssru(weights, f"{name}.ssru", x)
        else:
            update = _self_attention(weights, f"{name}.self_attn", x, heads, causal)
        x = _norm(weights, f"{name}.self_attn_residual.norm", x + update)
        update = _cross_attention(weights, f"{name}.cross_attn", x, states, heads)
        x = _norm(weights, f"{name}.cross_attn_residual.norm", x + update)
        x = _norm(weights, f"{name}.ffn_residual.norm", x + _feed_forward(weights, f"{name}.ffn", x))
    logits = x @ output.T + weights["output_proj.bias"]
    return (
        logits
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        - logits.max(1, keepdims=True)
    )


def encode(weights: Weights, src: Sequence[int], *, heads: int) -> Array:
    """Return the output of the encoder: [S, D]."""
    table = weights["src_embed.tokens.weight"]
    x = table[list(src)] * math.sqrt(table.shape[1]) + sinusoids(len(src), table.shape[1])
    for layer in range(_num_layers(weights, "encoder")):
        name = f"encoder_layers.{layer}"
        update = _self_attention(weights, f"{name}.self_attn", x, heads, np.ones((len(src), len(src)), dtype=bool))
        x = _norm(weights, f"{name}.self_attn_residual.norm", x + update)
        x = _norm(weights, f"{name}.ffn_residual.norm", x + _feed_forward(weights, f"{name}.ffn", x))
    return x


def sinusoids(length: int, width: int) -> Array:
    """Return sin(p * 1e-4 ** (i / (D / 2 - 1))) for i < D / 2, then the cosines, for p = 0, 1, ...: [length, D]."""
    frequency = 1e-4 ** (np.arange(width // 2) / (width / 2 - 1))
    angle = np.arange(length)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def ssru(weights: Weights, name: str, x: Array) -> Array:
    """Return the output of an SSRU: f = sigmoid(W_f x + b_f), c = f * c_prev + (1 - f) * W x, relu(c)."""
    state, found = np.zeros(x.shape[1]), []
    for x_D in x:
        gate = weights[f"{name}.gate_proj.weight"] @ x_D + weights[f"{name}.gate_proj.bias"]
        forget = 1.0 / (1.0 + np.exp(-gate))
        state = forget * state + (1.0 - forget) * (weights[f"{name}.state_proj.weight"] @ x_D)
        found.append(np.maximum(state, 0.0))
    return np.array(found)


def _num_layers(weights: Weights, side: str) -> int:
    return 1 + max(int(name.split(".")[1]) for name in weights if name.startswith(f"{side}_layers."))


def _linear(weights: Weights, name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: Weights, name: str, x: Array) -> Array:
    mean = x.mean(1, keepdims=True)
    variance = ((x - mean) ** 2).mean(1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _feed_forward(weights: Weights, name: str, x: Array) -> Array:
    return _linear(weights, f"{name}.fc2", np.maximum(_linear(weights, f"{name}.fc1", x), 0.0))


def _self_attention(weights: Weights, name: str, x: Array, heads: int, visible: NDArray[np.bool_]) -> Array:
    query, key, value = np.split(_linear(weights, f"{name}.qkv_proj", x), 3, axis=1)
    return _linear(weights, f"{name}.out_proj", _attend(query, key, value, heads, visible))


def _cross_attention(weights: Weights, name: str, x: Array, states: Array, heads: int) -> Array:
    query = _linear(weights, f"{name}.q_proj", x)
    key, value = np.split(_linear(weights, f"{name}.kv_proj", states), 2, axis=1)
    visible = np.ones((len(x), len(states)), dtype=bool)
    return _linear(weights, f"{name}.out_proj", _attend(query, key, value, heads, visible))


def _attend(query: Array, key: Array, value: Array, heads: int, visible: NDArray[np.bool_]) -> Array:
    found = []
    for q, k, v in zip(*(np.split(each, heads, axis=1) for each in (query, key, value)), strict=True):
        scores = np.where(visible, q @ k.T / math.sqrt(q.shape[1]), -np.inf)
        shares = np.exp(scores - scores.max(1, keepdims=True))
        found.append(shares / shares.sum(1, keepdims=True) @ v)
    return np.concatenate(found, axis=1)
