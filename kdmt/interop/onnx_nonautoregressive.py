"""ONNX graphs of non-autoregressive students. `kdmt.interop.onnx_folder` lists their inputs and outputs.

The search is outside of the graphs: the path of a `dag` model, the iterations of `cmlm` and `inat`, and the choice
among several lengths. Each position has only its most probable token, since the distributions would be far larger than
all else.

Shapes: B batch, S source length, T target length, L decoder positions, M = B * L, D width, H heads, C = D / H,
V vocabulary.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from onnx import ModelProto

from kdmt.interop.onnx_folder import (
    CTC_OUTPUTS,
    DAG_OUTPUTS,
    DECODER_FILE,
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_FILE,
    ENCODER_OUTPUTS,
    INPUT,
    MODEL_FILE,
)
from kdmt.interop.onnx_layers import FLOAT, INT64, LayerGraph, to_array
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import DecoderLayer
from kdmt.types import BOS, EOS, UNK

_LENGTHS = 256  # number of lengths that a model can predict, half of them shorter than the source


def nonautoregressive_graphs(model: NATransformer) -> dict[str, ModelProto]:
    """Return the graphs of a model by the name of their file."""
    if model.nat.family == "ctc":
        return {MODEL_FILE: _ctc_graph(model)}
    if model.nat.family == "dag":
        return {MODEL_FILE: _dag_graph(model)}
    return {ENCODER_FILE: _encoder_graph(model), DECODER_FILE: _decoder_graph(model)}


def _ctc_graph(model: NATransformer) -> ModelProto:
    graph = _Graph(model)
    src_tokens = graph.input(INPUT, INT64, ["B", "S"])
    repeated = graph.repeat(src_tokens, model.nat.upsample)
    if model.nat.source_copy == "none":
        unknown = graph.op("Expand", graph.ints(UNK), graph.op("Shape", repeated))
        x = graph.look_up(model.tgt_embed, graph.target_table(), unknown)
    else:
        x = graph.look_up(model.src_embed, graph.source_table(model), repeated)
    states = graph.encode(model, graph.prefixed(src_tokens), None)
    features = graph.decode(x, states, None, None)
    graph.best(features, CTC_OUTPUTS)
    return graph.model("ctc")


def _dag_graph(model: NATransformer) -> ModelProto:
    graph = _Graph(model)
    src_tokens = graph.input(INPUT, INT64, ["B", "S"])
    states = graph.encode(model, graph.prefixed(src_tokens), None)
    size = graph.size(graph.repeat(src_tokens, model.nat.upsample), 1)
    places = graph.range(size)
    last = graph.op("Sub", size, graph.ints(1))
    tokens = graph.op("Where", graph.op("Equal", places, graph.ints(0)), graph.ints(BOS), graph.ints(UNK))
    tokens = graph.op("Where", graph.op("Equal", places, last), graph.ints(EOS), tokens)  # --> [L]
    shape = graph.op("Concat", graph.size(src_tokens, 0), size, axis=0)
    x = graph.look_up(model.tgt_embed, graph.target_table(), graph.op("Expand", tokens, shape))
    features = graph.decode(x, states, None, None)
    graph.best(features, DAG_OUTPUTS[:2])
    graph.links(features, places, DAG_OUTPUTS[2])
    return graph.model("dag")


def _encoder_graph(model: NATransformer) -> ModelProto:
    graph = _Graph(model)
    tokens = graph.prefixed(graph.input(INPUT, INT64, ["B", "S"]))
    keep = graph.real(tokens)
    states = graph.op("Identity", graph.encode(model, tokens, graph.hide(keep)), out=ENCODER_OUTPUTS[0])
    graph.output(states, FLOAT, ["B", "states", model.config.encoder_embed_dim])
    graph.lengths(states, keep, ENCODER_OUTPUTS[1])
    return graph.model("encoder")


def _decoder_graph(model: NATransformer) -> ModelProto:
    graph = _Graph(model)
    src_tokens = graph.input(DECODER_INPUTS[0], INT64, ["B", "S"])
    states = graph.input(DECODER_INPUTS[1], FLOAT, ["B", "states", model.config.encoder_embed_dim])
    draft = graph.input(DECODER_INPUTS[2], INT64, ["B", "T"])
    copied = graph.op("Equal", draft, graph.ints(UNK))
    if model.nat.layout == "fairseq":
        # in fairseq the inputs of <s> and </s> are copies of the source too in the first pass; in later passes no input
        # is a copy
        unseen = graph.op("Or", copied, graph.op("Equal", draft, graph.ints(EOS)))
        unseen = graph.op("Or", unseen, graph.op("Equal", draft, graph.ints(model.pad)))
        unseen = graph.op("Cast", unseen, to=INT64)
        copied = graph.op("Equal", graph.op("ReduceMin", unseen, graph.ints(1), keepdims=1), graph.ints(1))
    seen = graph.framed(draft)
    keep = graph.real(seen)
    x = graph.look_up(model.tgt_embed, graph.target_table(), seen)
    if model.family.copies_source and model.nat.source_copy != "none":
        copies = graph.copies(graph.framed(src_tokens), keep)
        x = graph.op("Where", graph.op("Unsqueeze", copied, graph.ints(2)), copies, x)
    hidden = graph.hide(graph.real(graph.prefixed(src_tokens)))
    features = graph.decode(x, states, hidden, graph.hide(keep))
    if model.nat.frame:
        features = graph.op("Slice", features, graph.ints(1), graph.ints(np.iinfo(np.int64).max), graph.ints(1))
    graph.best(features, DECODER_OUTPUTS)
    return graph.model("decoder")


class _Graph(LayerGraph):
    """Graph of a part of a non-autoregressive model."""

    def __init__(self, model: NATransformer) -> None:
        super().__init__()
        self.nat_model = model

    def framed(self, tokens: str) -> str:
        """Put <s> before each sentence in models of the fairseq layout."""
        return self._with_prefix(tokens, [BOS] * self.nat_model.nat.frame)

    def prefixed(self, src_tokens: str) -> str:
        """Put the tokens that the encoder itself needs before each source."""
        token = self.nat_model.config.source_token
        return self._with_prefix(src_tokens, ([] if token is None else [token]) + [BOS] * self.nat_model.nat.frame)

    def _with_prefix(self, tokens: str, prefix: list[int]) -> str:
        if not prefix:
            return tokens
        shape = self.op("Concat", self.size(tokens, 0), self.ints(len(prefix)), axis=0)
        return self.op("Concat", self.op("Expand", self.ints(*prefix), shape), tokens, axis=1)

    def real(self, tokens: str) -> str:
        """Return a mask that is true on real tokens: bool [B, T]."""
        return self.op("Not", self.op("Equal", tokens, self.ints(self.nat_model.pad)))

    def repeat(self, tokens: str, times: int) -> str:
        """Repeat each token: int64 [B, S * times]."""
        columns = self.op("Expand", self.op("Unsqueeze", tokens, self.ints(2)), self.ints(1, 1, times))
        return self.reshape(columns, 0, -1)

    def target_table(self) -> str:
        """Add the embeddings of target tokens, [V, D]; in a `ctc` model with that of the blank."""
        model = self.nat_model
        rows = model.tgt_embed.tokens.weight
        if model.nat.family == "ctc":
            rows = torch.cat([rows, model.blank_1D])
        return self.weight("tgt.tokens", to_array(rows))

    def source_table(self, model: NATransformer) -> str:  # type: ignore[override]
        """Add the embeddings of source tokens, which may be those of the target."""
        is_shared = model.src_embed.tokens.weight is model.tgt_embed.tokens.weight
        return self.target_table() if is_shared else super().source_table(model)

    def output_weight(self) -> str:
        """Add the output projection, [V, D], which may be the embeddings of the target."""
        model = self.nat_model
        if model.output_proj.weight is model.tgt_embed.tokens.weight:
            return self.target_table()
        return self.weight("output", to_array(model.output_weight_VD))

    def decode(self, x: str, states: str, hidden_source: str | None, hidden_target: str | None) -> str:
        """Return the decoder features for inputs without positions, [B, L, D]: [B, L, D].

        Args:
            hidden_source, hidden_target: results of `hide`; None if nothing is padded.
        """
        model = self.nat_model
        x = self.place(model.tgt_embed, "tgt", x, self.range(self.size(x, 1)))
        for number, layer in enumerate(model.decoder_layers):
            assert isinstance(layer, DecoderLayer)
            if model.nat.dslp and number:
                x = self._with_predictions(number - 1, x)
            x = self._decoder_layer(f"decoder.{number}", layer, x, states, hidden_source, hidden_target)
        return x if model.decoder_norm is None else self.norm("decoder.norm", model.decoder_norm, x)

    def _decoder_layer(
        self, name: str, layer: DecoderLayer, x: str, states: str, hidden_source: str | None, hidden_target: str | None
    ) -> str:
        assert layer.self_attn is not None
        heads, dim = layer.self_attn.heads, layer.self_attn.out_proj.in_features
        before = self.before(f"{name}.self_attn", layer.self_attn_residual, x)
        parts = self.split(self.linear(f"{name}.qkv", layer.self_attn.qkv_proj, before), 3)
        query, key, value = (self.split_heads(part, heads) for part in parts)
        attended = self.merge_heads(self.attend(query, key, value, hidden_target, dim // heads))
        update = self.linear(f"{name}.out", layer.self_attn.out_proj, attended)
        x = self.after(f"{name}.self_attn", layer.self_attn_residual, x, update)
        before = self.before(f"{name}.cross_attn", layer.cross_attn_residual, x)
        query = self.split_heads(self.linear(f"{name}.cross_q", layer.cross_attn.q_proj, before), heads)
        parts = self.split(self.linear(f"{name}.cross_kv", layer.cross_attn.kv_proj, states), 2)
        key, value = (self.split_heads(part, heads) for part in parts)
        attended = self.merge_heads(self.attend(query, key, value, hidden_source, dim // heads))
        update = self.linear(f"{name}.cross_out", layer.cross_attn.out_proj, attended)
        x = self.after(f"{name}.cross_attn", layer.cross_attn_residual, x, update)
        update = self.feed_forward(name, layer.ffn, self.before(f"{name}.ffn", layer.ffn_residual, x))
        return self.after(f"{name}.ffn", layer.ffn_residual, x, update)

    def _with_predictions(self, number: int, x: str) -> str:
        """Return the input of the layer after layer `number`. See `NATransformer._with_predictions`."""
        model = self.nat_model
        features = x if model.decoder_norm is None else self.norm("decoder.norm", model.decoder_norm, x)
        logits = self._logits(features, forbids_padding=model.family.positions != "aligned")
        symbols = self.op("ArgMax", logits, axis=-1, keepdims=0)
        symbols = self.op("Reshape", symbols, self.op("Shape", x, start=0, end=2))
        embedded = self.look_up(model.tgt_embed, self.target_table(), symbols)
        linear = model.layer_inputs[number]
        assert isinstance(linear, torch.nn.Linear)
        return self.linear(f"layer_inputs.{number}", linear, self.op("Concat", x, embedded, axis=-1))

    def _logits(self, features: str, *, forbids_padding: bool) -> str:
        """Return the logits of all positions: [M, V]."""
        flat = self.reshape(features, -1, self.nat_model.config.decoder_embed_dim)
        logits = self.op("Gemm", flat, self.output_weight(), transB=1)
        return self.op("Add", logits, self._only_pad("forbidden", 0.0, -math.inf)) if forbids_padding else logits

    def _only_pad(self, name: str, others: float, pad: float) -> str:
        """Return a vector with one value for padding and another one for all other tokens: [V]."""
        values = np.full(self.nat_model.tgt_vocab_size, others, dtype=np.float32)
        values[self.nat_model.pad] = pad
        return self.weight(name, values)

    def best(self, features: str, outputs: tuple[str, ...]) -> None:
        """Add the outputs with the most probable symbol of each position and its log-probability, [B, L] each.

        Padding is not predicted in families that read drafts, since it marks the end of a draft. The layout of fairseq
        counts its probability. The softmax is of all symbols, since ONNX runtimes have a fast softmax and a slow
        logsumexp.
        """
        nat = self.nat_model.nat
        reads_drafts = self.nat_model.family.positions != "aligned"
        logits = self._logits(features, forbids_padding=reads_drafts and nat.layout != "fairseq")
        probs = self.op("Softmax", logits, axis=-1)
        if reads_drafts and nat.layout == "fairseq":
            probs = self.op("Mul", probs, self._only_pad("allowed", 1.0, 0.0))
        shape = self.op("Shape", features, start=0, end=2)
        self.op("Reshape", self.op("ArgMax", probs, axis=-1, keepdims=0), shape, out=outputs[0])
        log_probs = self.op("Log", self.op("ReduceMax", probs, self.ints(-1), keepdims=0))
        self.op("Reshape", log_probs, shape, out=outputs[1])
        for name, dtype in zip(outputs, (INT64, FLOAT), strict=True):
            self.output(name, dtype, ["B", "L"])

    def links(self, features: str, places: str, out: str) -> None:
        """Add the output with the log-probabilities of the second vertex after the first. See `LinkHead`.

        Args:
            places: int64 [L], numbers of the vertices.
        """
        model, head = self.nat_model, self.nat_model.links
        positions = self.positions(model.tgt_embed, "tgt", places)
        placed = self.op("Concat", features, self.op("Expand", positions, self.op("Shape", features)), axis=-1)
        width = head.query.out_features // head.heads
        query, key = (
            self.split_heads(self.linear(f"links.{name}", linear, placed), head.heads)
            for name, linear in (("query", head.query), ("key", head.key))
        )
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", scores, self.number(width**-0.5))
        allowed = self.op(
            "Less", self.op("Unsqueeze", places, self.ints(1)), self.op("Unsqueeze", places, self.ints(0))
        )  # --> [L, L]
        scores = self.op("LogSoftmax", self.op("Where", allowed, scores, self.number(-1e9)), axis=-1)
        gates = self.op("LogSoftmax", self.linear("links.gate", head.gate, placed), axis=-1)
        gates = self.op("Unsqueeze", self.op("Transpose", gates, perm=[0, 2, 1]), self.ints(3))
        mixed = self.op("ReduceLogSumExp", self.op("Add", scores, gates), self.ints(1), keepdims=0)
        self.op("Where", allowed, mixed, self.number(-math.inf), out=out)
        self.output(out, FLOAT, ["B", "L", "L"])

    def lengths(self, states: str, keep: str, out: str) -> None:
        """Add the output with all target lengths, the most probable one first: int64 [B, 256]."""
        head, limit = self.nat_model.lengths, self.nat_model.config.max_target_positions
        weights = self.op("Cast", keep, to=FLOAT)
        total = self.op(
            "ReduceSum", self.op("Mul", states, self.op("Unsqueeze", weights, self.ints(2))), self.ints(1), keepdims=1
        )
        counts = self.op("ReduceSum", weights, self.ints(1), keepdims=1)
        mean = self.op("Div", self.op("Squeeze", total, self.ints(1)), counts)
        logits = self.linear("lengths", head.proj, mean)
        first = self.ints(-head.frame)
        if not head.absolute:
            first = self.op("Add", self.op("Cast", counts, to=INT64), self.ints(-_LENGTHS // 2 - head.frame))
        classes = self.op("Add", first, self.range(self.ints(_LENGTHS)))
        classes = self.op("Expand", classes, self.op("Shape", logits))
        impossible = self.op("Or", self.op("Less", classes, self.ints(2)), self.op("Less", self.ints(limit), classes))
        scores = self.op("Where", impossible, self.number(-math.inf), logits)
        _, order = self.ops("TopK", scores, self.ints(_LENGTHS), count=2, axis=-1)
        sorted_classes = self.op("GatherElements", classes, order, axis=1)
        self.op("Max", self.op("Min", sorted_classes, self.ints(limit)), self.ints(2), out=out)
        self.output(out, INT64, ["B", _LENGTHS])

    def copies(self, src_tokens: str, tgt_keep: str) -> str:
        """Return copies of the source embeddings as decoder inputs: [B, T, D]. See `kdmt.models.length_prediction`."""
        model = self.nat_model
        src_keep = self.real(src_tokens)
        last = self.op("Sub", self.num_real(src_keep), self.ints(1))
        tgt_last = self.op("Max", self.op("Sub", self.num_real(tgt_keep), self.ints(1)), self.ints(1))
        step = self.op("Div", self.op("Cast", last, to=FLOAT), self.op("Cast", tgt_last, to=FLOAT))
        places = self.op("Cast", self.range(self.size(tgt_keep, 1)), to=FLOAT)
        opposite = self.op("Mul", places, step)  # source position that corresponds to each target position, [B, T]
        table = self.source_table(model)
        if model.nat.source_copy == "uniform":
            index = self.op("Min", self.op("Cast", self.op("Round", opposite), to=INT64), last)
            return self.look_up(model.src_embed, table, self.op("GatherElements", src_tokens, index, axis=1))
        places = self.op("Cast", self.range(self.size(src_tokens, 1)), to=FLOAT)
        distance = self.op("Abs", self.op("Sub", self.op("Unsqueeze", opposite, self.ints(2)), places))
        scores = self.op("Div", distance, self.number(-float(model.log_temperature.detach().exp())))
        hidden = self.op("Squeeze", self.hide(src_keep), self.ints(1))
        weights = self.op("Softmax", self.op("Add", scores, hidden), axis=-1)
        return self.op("MatMul", weights, self.look_up(model.src_embed, table, src_tokens))

    def num_real(self, keep: str) -> str:
        """Return the number of real tokens of each sentence: int64 [B, 1]."""
        return self.op("ReduceSum", self.op("Cast", keep, to=INT64), self.ints(1), keepdims=1)
