"""ONNX graphs of an autoregressive Transformer: the encoder, and one step of the decoder with its cache.

Inputs and outputs have the names and shapes of Hugging Face's Optimum, which Transformers.js reads too:

    encoder_model.onnx            input_ids [B, S], attention_mask [B, S] -> last_hidden_state [B, S, D]
    decoder_model_merged.onnx     input_ids [N, 1], encoder_attention_mask [B, S], encoder_hidden_states [B, S, D],
                                  use_cache_branch [1], past_key_values.* -> logits [N, 1, V], present.*

For each decoder layer i, `past_key_values.i.decoder.key` and `.value` are the keys and values of the tokens so far,
[N, H, T, C], and `past_key_values.i.encoder.key` and `.value` those of the source, [B, H, S, C]. In the first step all
of them have length 0 and `use_cache_branch` is false: the keys and values of the source are computed. In all other
steps it is true, and the output `present.i.encoder.*` is the input.

Two things are beyond Optimum. A sentence may have several rows, the beams: N is a multiple of B, and the rows of a
sentence, which follow each other, share the keys and values of the source. A decoder with SSRUs has the input
`past_key_values.i.decoder.state`, [N, D], in place of keys and values of tokens, zeros in the first step, and the input
`position` [1], the number of tokens so far, which a decoder without layers has too.

Shapes: B sentences, S source length, N rows, T target tokens so far, D width, H heads, C = D / H, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, helper

from kdmt.interop.onnx_layers import BOOL, FLOAT, INT64, LayerGraph, to_array
from kdmt.models.attention import SelfAttention
from kdmt.models.ssru import SSRU
from kdmt.models.transformer import DecoderLayer, Transformer
from kdmt.types import UNK


def encoder_graph(model: Transformer, *, accepts_all_ids: bool = False) -> ModelProto:
    """Return the encoder.

    Args:
        accepts_all_ids: whether ids that the model does not have are read as <unk>; otherwise they are an error.
    """
    graph = LayerGraph()
    input_ids = graph.input("input_ids", INT64, ["batch_size", "encoder_sequence_length"])
    if accepts_all_ids:
        is_known = graph.op("Less", input_ids, graph.ints(model.src_vocab_size))
        input_ids = graph.op("Where", is_known, input_ids, graph.ints(UNK))
    mask = graph.input("attention_mask", INT64, ["batch_size", "encoder_sequence_length"])
    states = graph.encode(model, input_ids, graph.hide(graph.op("Cast", mask, to=BOOL)))
    graph.op("Identity", states, out="last_hidden_state")
    size = model.config.encoder_embed_dim
    graph.output("last_hidden_state", FLOAT, ["batch_size", "encoder_sequence_length", size])
    return graph.model("encoder")


def decoder_graph(model: Transformer, *, rows: str = "rows") -> ModelProto:
    """Return one step of the decoder.

    Args:
        rows: name of the size N. Transformers.js gives empty caches a size that it knows, such as `batch_size`.
    """
    graph, config = _StepGraph(), model.config
    layers = [layer for layer in model.decoder_layers if isinstance(layer, DecoderLayer)]
    heads, width = config.decoder_attention_heads, config.decoder_embed_dim // config.decoder_attention_heads
    own: dict[str, list[str | int]] = {name: [rows, heads, "past_length", width] for name in _CACHES["attention"]}
    if config.decoder == "ssru":
        own = {name: [rows, config.decoder_embed_dim] for name in _CACHES["ssru"]}
    mask = graph.input("encoder_attention_mask", INT64, ["batch_size", "encoder_sequence_length"])
    input_ids = graph.input("input_ids", INT64, [rows, 1])
    states = graph.input(
        "encoder_hidden_states", FLOAT, ["batch_size", "encoder_sequence_length", config.encoder_embed_dim]
    )
    for number in range(len(layers)):
        for name, shape in own.items():
            graph.input(past(number, name), FLOAT, shape)
        for name in _CACHES["source"]:
            graph.input(past(number, name), FLOAT, ["batch_size", heads, "past_encoder_length", width])
    use_cache = graph.input("use_cache_branch", BOOL, [1])
    if layers and config.decoder == "self_attention":
        position = graph.size(past(0, "decoder.key"), 2)
    else:
        position = graph.input("position", INT64, [1])
    cross = graph.cross_keys_values(layers, states, use_cache, heads) if layers else []
    x = graph.embed_target(model, graph.op("Squeeze", input_ids, graph.ints(1)), position)
    hidden = graph.hide(graph.op("Cast", mask, to=BOOL))
    for number, layer in enumerate(layers):
        x = graph.decoder_layer(number, layers.index(layer), layer, x, cross[number], hidden)
    if model.decoder_norm is not None:
        x = graph.norm("decoder.norm", model.decoder_norm, x)
    graph.op("Unsqueeze", graph.project_output(model, x), graph.ints(1), out="logits")
    graph.output("logits", FLOAT, [rows, 1, model.tgt_vocab_size])
    for number in range(len(layers)):
        for name, shape in own.items():
            graph.output(present(number, name), FLOAT, ["length" if size == "past_length" else size for size in shape])
        for name in _CACHES["source"]:
            graph.output(present(number, name), FLOAT, ["batch_size", heads, "source_length", width])
    return graph.model("decoder")


# names of the parts of a layer's cache
_CACHES = {
    "attention": ("decoder.key", "decoder.value"),
    "ssru": ("decoder.state",),
    "source": ("encoder.key", "encoder.value"),
}


def past(layer: int, name: str) -> str:
    """Return the name of an input for a part of the cache."""
    return f"past_key_values.{layer}.{name}"


def present(layer: int, name: str) -> str:
    """Return the name of the output with the new value of a part of the cache."""
    return f"present.{layer}.{name}"


class _StepGraph(LayerGraph):
    """Graph of a decoder step."""

    def embed_target(self, model: Transformer, tokens: str, position: str) -> str:
        """Return the decoder inputs for tokens, int64 [N], at a position, int64 [1]: [N, D]."""
        embedder = model.tgt_embed
        x = self.look_up(embedder, self.weight("tgt.tokens", to_array(embedder.tokens.weight)), tokens)
        if embedder.starts_from_zero:
            is_first = self.op("Equal", position, self.ints(0))
            x = self.op("Where", is_first, self.number(0.0), x)
        return self.place(embedder, "tgt", x, position)

    def project_output(self, model: Transformer, x: str) -> str:
        """Return the logits: [N, V]. The output projection may be the embeddings of the target."""
        is_tied = model.output_proj.weight is model.tgt_embed.tokens.weight
        weight = self.weight("tgt.tokens" if is_tied else "output", to_array(model.output_proj.weight))
        bias = [] if model.output_proj.bias is None else [self.weight("output.bias", to_array(model.output_proj.bias))]
        return self.op("Gemm", x, weight, *bias, transB=1)

    def decoder_layer(
        self, number: int, weights: int, layer: DecoderLayer, x: str, cross: tuple[str, str], hidden: str
    ) -> str:
        """Return the output of a step of a decoder layer, [N, D], and add the outputs for its cache.

        Args:
            weights: number of the first layer with the same weights.
        """
        name = f"decoder.{weights}"
        before = self.before(f"{name}.self_attn", layer.self_attn_residual, x)
        if layer.ssru is not None:
            update = self._ssru(number, name, layer.ssru, before)
        else:
            assert layer.self_attn is not None
            update = self._self_attention(number, name, layer.self_attn, before)
        x = self.after(f"{name}.self_attn", layer.self_attn_residual, x, update)
        before = self.before(f"{name}.cross_attn", layer.cross_attn_residual, x)
        query = self.linear(f"{name}.cross_q", layer.cross_attn.q_proj, before)
        # the rows of a sentence are queries of one attention --> [B, K, H, C] --> [B, H, K, C]
        heads, dim = layer.cross_attn.heads, layer.cross_attn.q_proj.out_features
        query = self.reshape(query, self.size(cross[0], 0), -1, heads, dim // heads)
        query = self.op("Transpose", query, perm=[0, 2, 1, 3])
        attended = self.op("Transpose", self.attend(query, *cross, hidden, dim // heads), perm=[0, 2, 1, 3])
        update = self.linear(f"{name}.cross_out", layer.cross_attn.out_proj, self.reshape(attended, -1, dim))
        x = self.after(f"{name}.cross_attn", layer.cross_attn_residual, x, update)
        update = self.feed_forward(name, layer.ffn, self.before(f"{name}.ffn", layer.ffn_residual, x))
        return self.after(f"{name}.ffn", layer.ffn_residual, x, update)

    def _self_attention(self, number: int, name: str, attention: SelfAttention, x: str) -> str:
        """Return the attention over the tokens so far and the new one: [N, D]."""
        heads, dim = attention.heads, attention.out_proj.in_features
        parts = self.split(self.linear(f"{name}.qkv", attention.qkv_proj, x), 3)
        query, *new = (self.reshape(part, -1, heads, 1, dim // heads) for part in parts)
        key, value = (
            self.op("Concat", past(number, each), part, axis=2, out=present(number, each))
            for each, part in zip(_CACHES["attention"], new, strict=True)
        )
        attended = self.reshape(self.attend(query, key, value, None, dim // heads), -1, dim)
        return self.linear(f"{name}.out", attention.out_proj, attended)

    def _ssru(self, number: int, name: str, ssru: SSRU, x: str) -> str:
        """Return relu(c_t) with c_t = f_t * c_{t-1} + (1 - f_t) * W x_t: [N, D]."""
        gate = self.op("Sigmoid", self.linear(f"{name}.ssru_gate", ssru.gate_proj, x))
        new = self.linear(f"{name}.ssru_state", ssru.state_proj, x)
        kept = self.op("Mul", gate, past(number, "decoder.state"))
        added = self.op("Mul", self.op("Sub", self.number(1.0), gate), new)
        return self.op("Relu", self.op("Add", kept, added, out=present(number, "decoder.state")))

    def cross_keys_values(
        self, layers: Sequence[DecoderLayer], states: str, use_cache: str, heads: int
    ) -> list[tuple[str, str]]:
        """Return the keys and values of the source for each layer, [B, H, S, C]: from the cache, or computed."""
        branch = LayerGraph("computed.", initializers=self.initializers)  # the weights are those of the whole graph
        names = [(number, name) for number in range(len(layers)) for name in _CACHES["source"]]
        computed: list[str] = []
        for layer in layers:
            name = f"decoder.{layers.index(layer)}.cross_kv"
            parts = branch.split(branch.linear(name, layer.cross_attn.kv_proj, states), 2)
            computed += [branch.split_heads(part, heads) for part in parts]
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
