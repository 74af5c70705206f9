"""Layers of kdmt's models as ONNX operators.

Shapes: B sentences, S source length, L decoder positions, N rows of a decoder step, T positions in general, D width,
H heads, C = D / H, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn import functional as F

from kdmt.interop.onnx_graph import GraphBuilder
from kdmt.models.positions import LearnedPositions, sinusoid_frequencies
from kdmt.models.transformer import Embedder, EncoderLayer, FeedForward, Residual, Transformer

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def to_array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a weight as an array of float32."""
    return tensor.detach().to("cpu").float().numpy()


class LayerGraph(GraphBuilder):
    """Graph of a part of a model. Names of modules, such as `encoder.0`, become names of weights."""

    def range(self, length: str) -> str:
        """Return the numbers from 0 to a length, int64 [1], without it: int64 [length]."""
        zero, one = (self.weight(f"scalar_{value}", np.array(value, dtype=np.int64)) for value in (0, 1))
        return self.op("Range", zero, self.op("Squeeze", length, self.ints(0)), one)

    def look_up(self, embedder: Embedder, table: str, tokens: str) -> str:
        """Return the embeddings of tokens, int64 [..., T], without positions: [..., T, D].

        Args:
            table: weight with the embeddings, [V, D].
        """
        x = self.op("Gather", table, tokens)
        return x if embedder.scale == 1.0 else self.op("Mul", x, self.number(embedder.scale))

    def place(self, embedder: Embedder, side: str, x: str, positions: str) -> str:
        """Add the embeddings of positions, int64 [T], then apply the norm: [..., T, D]."""
        x = self.op("Add", x, self.positions(embedder, side, positions))
        return x if embedder.norm is None else self.norm(f"{side}.norm", embedder.norm, x)

    def positions(self, embedder: Embedder, side: str, positions: str) -> str:
        """Return the embeddings of positions, int64 [T]: [T, D]. Sinusoids are computed, since a table is large."""
        if isinstance(embedder.positions, LearnedPositions):
            rows = embedder.positions.weight[embedder.positions.first :]
            return self.op("Gather", self.weight(f"{side}.positions", to_array(rows)), positions)
        dim = embedder.tokens.embedding_dim
        counted = self.op("Add", self.op("Cast", positions, to=FLOAT), self.number(embedder.positions.first))
        frequencies = self.weight(f"frequencies.{dim}", to_array(sinusoid_frequencies(dim)))
        angle = self.op("Mul", self.op("Unsqueeze", counted, self.ints(1)), frequencies)
        table = self.op("Concat", self.op("Sin", angle), self.op("Cos", angle), axis=1)
        return self.op("Pad", table, self.ints(0, 0, 0, 1)) if dim % 2 else table

    def hide(self, keep: str) -> str:
        """Return scores that hide padding, from a mask that is true on real tokens, [B, S]: 0 or -inf, [B, 1, 1, S]."""
        scores = self.op("Where", keep, self.number(0.0), self.number(-math.inf))
        return self.op("Unsqueeze", scores, self.ints(1, 2))

    def norm(self, name: str, norm: nn.LayerNorm, x: str) -> str:
        scale, bias = (self.weight(f"{name}.{part}", to_array(getattr(norm, part))) for part in ("weight", "bias"))
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=norm.eps)

    def linear(self, name: str, linear: nn.Linear, x: str) -> str:
        """Return W x + b, with the last axis of x as columns; b may be missing."""
        y = self.op("MatMul", x, self.weight(f"{name}.weight", to_array(linear.weight.t())))
        bias: Tensor | None = linear.bias  # PyTorch declares it as a tensor
        return y if bias is None else self.op("Add", y, self.weight(f"{name}.bias", to_array(bias)))

    def feed_forward(self, name: str, ffn: FeedForward, x: str) -> str:
        y = self._activate(ffn, self.linear(f"{name}.fc1", ffn.fc1, x))
        return self.linear(f"{name}.fc2", ffn.fc2, y)

    def _activate(self, ffn: FeedForward, x: str) -> str:
        if ffn.activation is F.silu:
            return self.op("Mul", x, self.op("Sigmoid", x))
        return self.op({F.relu: "Relu", F.gelu: "Gelu"}[ffn.activation], x)

    def before(self, name: str, residual: Residual, x: str) -> str:
        """Return the input of a sublayer."""
        return self.norm(f"{name}.norm", residual.norm, x) if residual.normalize_before else x

    def after(self, name: str, residual: Residual, x: str, update: str) -> str:
        """Return the output of a residual connection around a sublayer."""
        total = self.op("Add", x, update)
        return total if residual.normalize_before else self.norm(f"{name}.norm", residual.norm, total)

    def encode(self, model: Transformer, tokens: str, hidden: str | None) -> str:
        """Return the states of the encoder for tokens, int64 [B, S]: [B, S, D].

        Args:
            hidden: result of `hide`; None if nothing is padded.
        """
        x = self.look_up(model.src_embed, self.source_table(model), tokens)
        x = self.place(model.src_embed, "src", x, self.range(self.size(tokens, 1)))
        for number, layer in enumerate(model.encoder_layers):
            assert isinstance(layer, EncoderLayer)
            x = self._encoder_layer(f"encoder.{number}", layer, x, hidden)
        return x if model.encoder_norm is None else self.norm("encoder.norm", model.encoder_norm, x)

    def source_table(self, model: Transformer) -> str:
        """Add the embeddings of source tokens, [V, D]."""
        return self.weight("src.tokens", to_array(model.src_embed.tokens.weight))

    def _encoder_layer(self, name: str, layer: EncoderLayer, x: str, hidden: str | None) -> str:
        before = self.before(f"{name}.self_attn", layer.self_attn_residual, x)
        heads, dim = layer.self_attn.heads, layer.self_attn.out_proj.in_features
        parts = self.split(self.linear(f"{name}.qkv", layer.self_attn.qkv_proj, before), 3)
        query, key, value = (self.split_heads(part, heads) for part in parts)
        attended = self.merge_heads(self.attend(query, key, value, hidden, dim // heads))
        update = self.linear(f"{name}.out", layer.self_attn.out_proj, attended)
        x = self.after(f"{name}.self_attn", layer.self_attn_residual, x, update)
        update = self.feed_forward(name, layer.ffn, self.before(f"{name}.ffn", layer.ffn_residual, x))
        return self.after(f"{name}.ffn", layer.ffn_residual, x, update)

    def attend(self, query: str, key: str, value: str, hidden: str | None, width: int) -> str:
        """Return the attention of queries [..., Q, C] over keys and values [..., S, C]: [..., Q, C].

        Args:
            hidden: scores that are added, such as those of `hide`.
            width: C.
        """
        scaled = self.op("Mul", query, self.number(width**-0.5))
        scores = self.op("MatMul", scaled, self.op("Transpose", key, perm=[0, 1, 3, 2]))
        scores = scores if hidden is None else self.op("Add", scores, hidden)
        return self.op("MatMul", self.op("Softmax", scores, axis=-1), value)

    def split(self, x: str, parts: int) -> Sequence[str]:
        """Split the last axis into equal parts."""
        return self.ops("Split", x, count=parts, axis=-1, num_outputs=parts)

    def split_heads(self, x: str, heads: int) -> str:
        """Reshape [B, T, D] to [B, H, T, C]."""
        return self.op("Transpose", self.reshape(x, 0, 0, heads, -1), perm=[0, 2, 1, 3])

    def merge_heads(self, x: str) -> str:
        """Reshape [B, H, T, C] to [B, T, D]."""
        return self.reshape(self.op("Transpose", x, perm=[0, 2, 1, 3]), 0, 0, -1)
