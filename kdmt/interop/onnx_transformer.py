"""ONNX graphs of an autoregressive Transformer: the encoder, and one step of the decoder with its cache.

Inputs and outputs have the names and shapes of Hugging Face's Optimum, which Transformers.js reads too:

    encoder_model.onnx            input_ids [B, S], attention_mask [B, S] -> last_hidden_state [B, S, D]
    decoder_model_merged.onnx     input_ids [N, 1], encoder_attention_mask [B, S], encoder_hidden_states [B, S, D],
                                  use_cache_branch [1], past_key_values.* -> logits [N, 1, V], present.*

For each decoder layer i, `past_key_values.i.decoder.key` and `.value` are the keys and values of the tokens so far,
[N, H, T, C], and `past_key_values.i.encoder.key` and `.value` those of the source, [B, H, S, C]. In the first step all
of them have length 0 and `use_cache_branch` is false: the keys and values of the source are computed. In all other steps
it is true, and the output `present.i.encoder.*` is the input.

Beyond Optimum, a sentence may have several rows, the beams: N is a multiple of B, and the rows of a sentence, which
follow each other, share the keys and values of the source.

Shapes: B sentences, S source length, N rows, T target tokens so far, D width, H heads, C = D / H, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

from kdmt.interop.onnx_graph import GraphBuilder
from kdmt.models.positions import LearnedPositions, sinusoid_frequencies
from kdmt.models.transformer import DecoderLayer, Embedder, EncoderLayer, FeedForward, Residual, Transformer

_ACTIVATIONS = {F.relu: "Relu", F.gelu: "Gelu"}
_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def encoder_graph(model: Transformer) -> ModelProto:
    """Return the encoder."""
    graph = _Graph()
    input_ids = graph.input("input_ids", _INT64, ["batch_size", "encoder_sequence_length"])
    mask = graph.input("attention_mask", _INT64, ["batch_size", "encoder_sequence_length"])
    length = graph.op("Squeeze", graph.size(input_ids, 1), graph.ints(0))
    zero, one = (graph.weight(f"scalar_{value}", np.array(value, dtype=np.int64)) for value in (0, 1))
    x = graph.embed(model.src_embed, "src", input_ids, graph.op("Range", zero, length, one))
    hidden = graph.masked(mask)
    for number, layer in enumerate(model.encoder_layers):
        assert isinstance(layer, EncoderLayer)
        x = graph.encoder_layer(f"encoder.{number}", layer, x, hidden)
    if model.encoder_norm is not None:
        x = graph.norm("encoder.norm", model.encoder_norm, x)
    graph.op("Identity", x, out="last_hidden_state")
    size = model.config.encoder_embed_dim
    graph.output("last_hidden_state", _FLOAT, ["batch_size", "encoder_sequence_length", size])
    return graph.model("encoder")


def decoder_graph(model: Transformer) -> ModelProto:
    """Return one step of the decoder."""
    graph, config = _Graph(), model.config
    layers = [layer for layer in model.decoder_layers if isinstance(layer, DecoderLayer)]
    heads, width = config.decoder_attention_heads, config.decoder_embed_dim // config.decoder_attention_heads
    mask = graph.input("encoder_attention_mask", _INT64, ["batch_size", "encoder_sequence_length"])
    input_ids = graph.input("input_ids", _INT64, ["rows", 1])
    states = graph.input(
        "encoder_hidden_states", _FLOAT, ["batch_size", "encoder_sequence_length", config.encoder_embed_dim]
    )
    own, source = ["rows", heads, "past_length", width], ["batch_size", heads, "past_encoder_length", width]
    for number in range(len(layers)):
        for name in ("decoder.key", "decoder.value", "encoder.key", "encoder.value"):
            graph.input(past(number, name), _FLOAT, own if name.startswith("decoder") else source)
    use_cache = graph.input("use_cache_branch", _BOOL, [1])
    cross = graph.cross_keys_values(layers, states, use_cache, heads)
    position = graph.size(past(0, "decoder.key"), 2)
    x = graph.embed(model.tgt_embed, "tgt", graph.op("Squeeze", input_ids, graph.ints(1)), position)
    hidden = graph.masked(mask)
    for number, layer in enumerate(layers):
        x = graph.decoder_layer(number, layer, x, cross[number], hidden)
    if model.decoder_norm is not None:
        x = graph.norm("decoder.norm", model.decoder_norm, x)
    logits = graph.op("Gemm", x, _output_weight(graph, model), transB=1)
    graph.op("Unsqueeze", logits, graph.ints(1), out="logits")
    graph.output("logits", _FLOAT, ["rows", 1, model.tgt_vocab_size])
    own, source = ["rows", heads, "length", width], ["batch_size", heads, "encoder_sequence_length", width]
    for number in range(len(layers)):
        for name in ("decoder.key", "decoder.value", "encoder.key", "encoder.value"):
            graph.output(present(number, name), _FLOAT, own if name.startswith("decoder") else source)
    return graph.model("decoder")


def past(layer: int, name: str) -> str:
    """Return the name of an input for a part of the cache."""
    return f"past_key_values.{layer}.{name}"


def present(layer: int, name: str) -> str:
    """Return the name of the output with the new value of a part of the cache."""
    return f"present.{layer}.{name}"


def _output_weight(graph: _Graph, model: Transformer) -> str:
    """Add the output projection, [V, D], which may be the embeddings of the target."""
    if model.output_proj.weight is model.tgt_embed.tokens.weight:
        return graph.weight("tgt.tokens", _array(model.tgt_embed.tokens.weight))
    return graph.weight("output", _array(model.output_proj.weight))


def _first_position(embedder: Embedder) -> int:
    """Return the number with which the sinusoids of a sentence begin."""
    assert embedder.tokens.padding_idx is not None
    return embedder.tokens.padding_idx + 1


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().to("cpu", torch.float32).numpy()


class _Graph(GraphBuilder):
    """Graph of a part of a Transformer. Names of modules, such as `encoder.0`, become names of weights."""

    def embed(self, embedder: Embedder, side: str, tokens: str, positions: str) -> str:
        """Return the embeddings of tokens, int64 [..., T], at positions, int64 [T] or [1]: [..., T, D]."""
        x = self.op("Gather", self.weight(f"{side}.tokens", _array(embedder.tokens.weight)), tokens)
        if embedder.scale != 1.0:
            x = self.op("Mul", x, self.number(embedder.scale))
        x = self.op("Add", x, self._positions(embedder, side, positions))
        return x if embedder.norm is None else self.norm(f"{side}.norm", embedder.norm, x)

    def _positions(self, embedder: Embedder, side: str, positions: str) -> str:
        """Return the embeddings of positions: [T, D]. Sinusoids are computed, which is smaller than their table."""
        if isinstance(embedder.positions, LearnedPositions):
            rows = embedder.positions.weight[embedder.positions.first :]
            return self.op("Gather", self.weight(f"{side}.positions", _array(rows)), positions)
        dim = embedder.tokens.embedding_dim
        counted = self.op("Add", self.op("Cast", positions, to=_FLOAT), self.number(_first_position(embedder)))
        frequencies = self.weight(f"frequencies.{dim}", _array(sinusoid_frequencies(dim)))
        angle = self.op("Mul", self.op("Unsqueeze", counted, self.ints(1)), frequencies)
        parts = [self.op("Sin", angle), self.op("Cos", angle)]
        table = self.op("Concat", *parts, axis=1)
        return self.op("Pad", table, self.ints(0, 0, 0, 1)) if dim % 2 else table

    def masked(self, mask: str) -> str:
        """Return the scores that hide padding: 0 for real tokens, -inf for padding, [B, 1, 1, S]."""
        keep = self.op("Cast", mask, to=_BOOL)
        scores = self.op("Where", keep, self.number(0.0), self.number(-math.inf))
        return self.op("Unsqueeze", scores, self.ints(1, 2))

    def norm(self, name: str, norm: nn.LayerNorm, x: str) -> str:
        scale, bias = (self.weight(f"{name}.{part}", _array(getattr(norm, part))) for part in ("weight", "bias"))
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=norm.eps)

    def linear(self, name: str, linear: nn.Linear, x: str) -> str:
        y = self.op("MatMul", x, self.weight(f"{name}.weight", _array(linear.weight.t())))
        return y if linear.bias is None else self.op("Add", y, self.weight(f"{name}.bias", _array(linear.bias)))

    def feed_forward(self, name: str, ffn: FeedForward, x: str) -> str:
        y = self.linear(f"{name}.fc1", ffn.fc1, x)
        y = self.op(_ACTIVATIONS[ffn.activation], y)
        return self.linear(f"{name}.fc2", ffn.fc2, y)

    def before(self, name: str, residual: Residual, x: str) -> str:
        return self.norm(f"{name}.norm", residual.norm, x) if residual.normalize_before else x

    def after(self, name: str, residual: Residual, x: str, update: str) -> str:
        total = self.op("Add", x, update)
        return total if residual.normalize_before else self.norm(f"{name}.norm", residual.norm, total)

    def encoder_layer(self, name: str, layer: EncoderLayer, x: str, hidden: str) -> str:
        """Return the output of an encoder layer: [B, S, D]."""
        before = self.before(f"{name}.self_attn", layer.self_attn_residual, x)
        projected = self.linear(f"{name}.qkv", layer.self_attn.qkv_proj, before)
        parts = self.ops("Split", projected, out=[f"{name}.{part}" for part in "qkv"], axis=-1, num_outputs=3)
        heads, dim = layer.self_attn.heads, layer.self_attn.out_proj.in_features
        query, key, value = (self._heads(part, heads) for part in parts)
        update = self._merge(self._attend(query, key, value, hidden, dim // heads))
        x = self.after(
            f"{name}.self_attn",
            layer.self_attn_residual,
            x,
            self.linear(f"{name}.out", layer.self_attn.out_proj, update),
        )
        update = self.feed_forward(name, layer.ffn, self.before(f"{name}.ffn", layer.ffn_residual, x))
        return self.after(f"{name}.ffn", layer.ffn_residual, x, update)

    def decoder_layer(self, number: int, layer: DecoderLayer, x: str, cross: tuple[str, str], hidden: str) -> str:
        """Return the output of a step of a decoder layer, [N, D], and add the outputs for its cache."""
        name = f"decoder.{number}"
        before = self.before(f"{name}.self_attn", layer.self_attn_residual, x)
        update = self._self_attention(number, layer, before)
        x = self.after(f"{name}.self_attn", layer.self_attn_residual, x, update)
        before = self.before(f"{name}.cross_attn", layer.cross_attn_residual, x)
        query = self.linear(f"{name}.cross_q", layer.cross_attn.q_proj, before)
        # the rows of a sentence are queries of one attention --> [B, K, H, C] --> [B, H, K, C]
        heads, dim = layer.cross_attn.heads, layer.cross_attn.q_proj.out_features
        query = self.reshape(query, self.size(cross[0], 0), -1, heads, dim // heads)
        query = self.op("Transpose", query, perm=[0, 2, 1, 3])
        attended = self.op("Transpose", self._attend(query, *cross, hidden, dim // heads), perm=[0, 2, 1, 3])
        update = self.linear(f"{name}.cross_out", layer.cross_attn.out_proj, self.reshape(attended, -1, dim))
        x = self.after(f"{name}.cross_attn", layer.cross_attn_residual, x, update)
        update = self.feed_forward(name, layer.ffn, self.before(f"{name}.ffn", layer.ffn_residual, x))
        return self.after(f"{name}.ffn", layer.ffn_residual, x, update)

    def _self_attention(self, number: int, layer: DecoderLayer, x: str) -> str:
        """Return the attention over the tokens so far and the new one: [N, D]."""
        name, heads, dim = f"decoder.{number}", layer.self_attn.heads, layer.self_attn.out_proj.in_features
        projected = self.linear(f"{name}.qkv", layer.self_attn.qkv_proj, x)
        parts = self.ops("Split", projected, out=[f"{name}.{part}" for part in "qkv"], axis=-1, num_outputs=3)
        query, *new = (self.reshape(part, -1, heads, 1, dim // heads) for part in parts)
        key, value = (
            self.op("Concat", past(number, each), part, axis=2, out=present(number, each))
            for each, part in zip(("decoder.key", "decoder.value"), new, strict=True)
        )
        attended = self.reshape(self._attend(query, key, value, None, dim // heads), -1, dim)
        return self.linear(f"{name}.out", layer.self_attn.out_proj, attended)

    def cross_keys_values(
        self, layers: Sequence[DecoderLayer], states: str, use_cache: str, heads: int
    ) -> list[tuple[str, str]]:
        """Return the keys and values of the source for each layer, [B, H, S, C]: from the cache, or computed."""
        branch = _Graph("computed.", initializers=self.initializers)  # the weights are those of the whole graph
        names = [(number, f"encoder.{part}") for number in range(len(layers)) for part in ("key", "value")]
        computed = []
        for number, layer in enumerate(layers):
            projected = branch.linear(f"decoder.{number}.cross_kv", layer.cross_attn.kv_proj, states)
            out = [f"decoder.{number}.cross_{part}" for part in "kv"]
            for part in branch.ops("Split", projected, out=out, axis=-1, num_outputs=2):
                computed.append(branch._heads(part, heads))
        kept = [f"kept.{number}.{name}" for number, name in names]
        copies = [helper.make_node("Identity", [past(*each)], [copy]) for each, copy in zip(names, kept, strict=True)]
        out = [present(*each) for each in names]
        self.ops(
            "If",
            use_cache,
            out=out,
            then_branch=self.subgraph("cached", copies, kept),
            else_branch=self.subgraph("computed", branch.nodes, computed),
        )
        return list(zip(out[::2], out[1::2], strict=True))

    def _attend(self, query: str, key: str, value: str, hidden: str | None, width: int) -> str:
        """Return the attention of queries [..., Q, C] over keys and values [..., S, C], where C is `width`: [..., Q, C]."""
        scaled = self.op("Mul", query, self.number(width**-0.5))
        scores = self.op("MatMul", scaled, self.op("Transpose", key, perm=[0, 1, 3, 2]))
        scores = scores if hidden is None else self.op("Add", scores, hidden)
        return self.op("MatMul", self.op("Softmax", scores, axis=-1), value)

    def _heads(self, x: str, heads: int) -> str:
        """Reshape [B, S, D] to [B, H, S, C]."""
        split = self.op("Reshape", x, self.ints(0, 0, heads, -1))
        return self.op("Transpose", split, perm=[0, 2, 1, 3])

    def _merge(self, x: str) -> str:
        """Reshape [B, H, S, C] to [B, S, D]."""
        return self.op("Reshape", self.op("Transpose", x, perm=[0, 2, 1, 3]), self.ints(0, 0, -1))
