"""Encoder-decoder Transformer with the numerics of fairseq or Marian (`TransformerConfig.layout`), in plain PyTorch.

Shapes: B batch, S source length, T target length, V vocabulary, D model width, K beam, N = B * K rows, H heads,
C = D / H. Sentences are padded on the right; `keep` masks are True on real tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kdmt.errors import UserError
from kdmt.models.architecture import TransformerConfig
from kdmt.models.attention import CrossAttention, SelfAttention, UnevenRows, Visible
from kdmt.models.dropout import Dropout
from kdmt.models.packed_attention import leave_padded_uncompiled, load_flash
from kdmt.models.positions import LearnedPositions, SinusoidalPositions
from kdmt.models.prefix_masks import visible_prefix
from kdmt.models.ssru import SSRU, leave_scan_uncompiled
from kdmt.types import EOS, Packing

# Limits for torch.compile. Encoder and decoder layers are compiled for training and evaluation, and again for a batch
# of one sentence; a layer that writes to a trace is a separate program.
_MAX_PROGRAMS = 16
_MAX_PROGRAMS_A_LAYER = 4

# when attention gets a mask of the real tokens: `needed`, if there is padding; `always`, which saves one compiled
# program; `never`, for sentences of equal length
Masks = Literal["needed", "always", "never"]

# function of the number of a decoder layer, from 0, and its output [B, T, D], which returns the input of the next layer
Between = Callable[[int, Tensor], Tensor]

# Not in place: the output of a linear layer over three dimensions is a view, whose gradient autograd would copy twice.
# ReLU saves its result, not its input, so that no more memory is kept for the backward pass.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "swish": F.silu}

# Columns that features and the output projection have more if there is an output bias: the first one is 1 and the bias,
# the others are 0. With eight of them, rows of a matrix stay aligned for vector instructions and tensor cores.
_BIAS_COLUMNS = 8


@dataclass(frozen=True)
class EncoderOutput:
    """Output of the encoder, which the decoder attends to."""

    states_BSD: Tensor  # float [B, S, D]
    keep_BS: Tensor  # bool [B, S], True = real token
    packing: Packing | None = None  # limits of the sentences in a packed row: then B is 1
    # number of source positions that the decoder attends to for the first target token, one more for each further
    # token (`Transformer.waiting`); None for the whole source
    wait_k: int | None = None
    first_tokens_B: Tensor | None = None  # int64 [B], tokens that the decoder reads after </s>, None for no such token

    def select(self, rows_N: Tensor) -> EncoderOutput:
        """Return the output for the sentences `rows_N`, in this order."""
        first_N = None if self.first_tokens_B is None else self.first_tokens_B[rows_N]
        return EncoderOutput(self.states_BSD[rows_N], self.keep_BS[rows_N], wait_k=self.wait_k, first_tokens_B=first_N)


@dataclass(frozen=True)
class Trace:
    """Hidden states and attention maps that a pass through the network records in addition to its result.

    A trace point is a pair of a kind and the index of a layer. Kinds of hidden states are `encoder` and `decoder`
    (output of a layer, [B, L, D]); kinds of attention maps are `encoder_self`, `decoder_self` and `cross`
    ([B, H, L, L], before dropout).

    Attributes:
        wanted: trace points to record.
        found: recorded tensors; the pass fills it.
    """

    wanted: frozenset[tuple[str, int]]
    found: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def within(self, kinds: tuple[str, ...], layer: int) -> Trace | None:
        """Return the trace if it records a map of these kinds inside a layer, else None."""
        return self if any((kind, layer) in self.wanted for kind in kinds) else None

    def keep_map(self, kind: str, layer: int, make: Callable[[], Tensor]) -> None:
        """Record an attention map; the network calls this. `make` is called only if the map is wanted."""
        if (kind, layer) in self.wanted:
            self.found[kind, layer] = make()

    def keep_state(self, kind: str, layer: int, state: Tensor) -> None:
        if (kind, layer) in self.wanted:
            self.found[kind, layer] = state


@dataclass
class DecoderCache:
    """Keys and values, or states of SSRUs, during decoding.

    Row b * K + k is beam k of sentence b, unless the sentences have different numbers of rows.
    """

    length: int  # positions decoded so far
    beam: int
    self_2NHTC: list[Tensor]  # for each layer with self-attention, keys and values [2, N, H, T, C]
    states_ND: list[Tensor]  # for each layer with an SSRU, its state, at least float32 [N, D]
    cross_2BHSC: list[Tensor]  # for each layer keys and values [2, B, H, S, C], shared by the rows of a sentence
    keep_B11S: Tensor  # bool [B, 1, 1, S]
    uneven: UnevenRows | None = None  # numbers of rows of the sentences, None for `beam` rows each
    wait_k: int | None = None  # see `EncoderOutput.wait_k`
    first_tokens_B: Tensor | None = None  # see `EncoderOutput.first_tokens_B`; None after the first step

    def visible(self, token: int) -> Tensor:
        """Return a mask of the source positions that a target token sees: bool [B, 1, 1, S].

        Args:
            token: index of the token in its sentence, from 0.
        """
        if self.wait_k is None:
            return self.keep_B11S
        return self.keep_B11S & visible_prefix(token, 1, self.keep_B11S.size(3), self.wait_k, self.keep_B11S.device)

    def reorder(self, order_N: Tensor) -> None:
        """Replace row i by row order_N[i].

        Rows stay within their sentence, so that the keys and values of the source do not move.
        """
        for cache_2NHTC in self.self_2NHTC:
            past = cache_2NHTC[:, :, :, : self.length]
            past.copy_(past.index_select(1, order_N))
        self.states_ND = [state_ND.index_select(0, order_N) for state_ND in self.states_ND]

    def select_sentences(self, index_B: Tensor) -> None:
        """Keep only the sentences `index_B`."""
        rows_N = (index_B[:, None] * self.beam + torch.arange(self.beam, device=index_B.device)).flatten()
        self.self_2NHTC = [cache.index_select(1, rows_N) for cache in self.self_2NHTC]
        self.states_ND = [state_ND.index_select(0, rows_N) for state_ND in self.states_ND]
        self.cross_2BHSC = [cache.index_select(1, index_B) for cache in self.cross_2BHSC]
        self.keep_B11S = self.keep_B11S.index_select(0, index_B)
        if self.first_tokens_B is not None:
            self.first_tokens_B = self.first_tokens_B.index_select(0, index_B)

    def take_rows(self, rows_N: Tensor, sentences_N: Tensor) -> None:
        """Replace the rows by N of them, each as often as wanted, with space for one more position.

        Args:
            rows_N: earlier row of each row: int64.
            sentences_N: sentence of each row, in ascending order: int64. Sentences without rows are removed, and the
                others are numbered again.
        """
        kept_B, own_N = sentences_N.unique_consecutive(return_inverse=True)
        if len(kept_B) < len(self.keep_B11S):
            self.cross_2BHSC = [cache.index_select(1, kept_B) for cache in self.cross_2BHSC]
            self.keep_B11S = self.keep_B11S.index_select(0, kept_B)
        self.uneven = UnevenRows.count(own_N)
        self.self_2NHTC = [
            F.pad(cache[:, :, :, : self.length].index_select(1, rows_N), (0, 0, 0, 1)) for cache in self.self_2NHTC
        ]
        self.states_ND = [state_ND.index_select(0, rows_N) for state_ND in self.states_ND]


class FeedForward(nn.Module):
    """Two linear layers, with dropout after the activation (`activation_dropout`)."""

    def __init__(self, dim: int, ffn_dim: int, *, activation_fn: str, activation_dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.activation = _ACTIVATIONS[activation_fn]
        self.dropout = Dropout(activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.activation(self.fc1(x))))


class Residual(nn.Module):
    """Residual connection around a sublayer: x + dropout(f(x)), with the norm before f or after the sum."""

    def __init__(self, dim: int, config: TransformerConfig, *, normalize_before: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)
        self.normalize_before = normalize_before

    def before(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.normalize_before else x

    def after(self, x: Tensor, update: Tensor) -> Tensor:
        x = self.dropout.add(x, update)
        return x if self.normalize_before else self.norm(x)


class EncoderLayer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.causal = config.unidirectional_encoder
        dim, before = config.encoder_embed_dim, config.encoder_normalize_before
        self.self_attn = SelfAttention(dim, config.encoder_attention_heads, dropout=config.attention_dropout)
        self.self_attn_residual = Residual(dim, config, normalize_before=before)
        self.ffn = FeedForward(
            dim,
            config.encoder_ffn_embed_dim,
            activation_fn=config.activation_fn,
            activation_dropout=config.activation_dropout,
        )
        self.ffn_residual = Residual(dim, config, normalize_before=before)

    def forward(self, x_BSD: Tensor, keep_B11S: Visible, trace: Trace | None = None, number: int = 0) -> Tensor:
        before = self.self_attn_residual.before(x_BSD)
        if trace is not None:
            assert not isinstance(keep_B11S, Packing)
            trace.keep_map("encoder_self", number, lambda: self._map(before, keep_B11S))
        update = self.self_attn(before, keep_B11T=keep_B11S, causal=self.causal)
        x_BSD = self.self_attn_residual.after(x_BSD, update)
        return self.ffn_residual.after(x_BSD, self.ffn(self.ffn_residual.before(x_BSD)))

    def _map(self, x_BSD: Tensor, keep_B11S: Tensor | None) -> Tensor:
        return self.self_attn.weights(x_BSD, keep_B11T=keep_B11S, causal=self.causal)


class DecoderLayer(nn.Module):
    """Self-attention or an SSRU, attention over the source, feed-forward layers.

    Args:
        causal: whether a position attends only to itself and earlier positions; otherwise to its whole sentence.

    Raises:
        ValueError: if an SSRU, which reads positions in their order, is not to be causal.
    """

    def __init__(self, config: TransformerConfig, *, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        dim, heads = config.decoder_embed_dim, config.decoder_attention_heads
        before = config.decoder_normalize_before
        self.self_attn: SelfAttention | None = None
        self.ssru: SSRU | None = None
        if config.decoder == "self_attention":
            self.self_attn = SelfAttention(dim, heads, dropout=config.attention_dropout)
        elif causal:
            self.ssru = SSRU(dim)
        else:
            raise ValueError("an SSRU is causal")
        self.self_attn_residual = Residual(dim, config, normalize_before=before)  # of the SSRU if there is one
        self.cross_attn = CrossAttention(dim, config.encoder_embed_dim, heads, dropout=config.attention_dropout)
        self.cross_attn_residual = Residual(dim, config, normalize_before=before)
        self.ffn = FeedForward(
            dim,
            config.decoder_ffn_embed_dim,
            activation_fn=config.activation_fn,
            activation_dropout=config.activation_dropout,
        )
        self.ffn_residual = Residual(dim, config, normalize_before=before)

    def forward(
        self,
        x_BTD: Tensor,
        states_BSD: Tensor,
        keep_B11S: Visible,
        keep_B11T: Visible = None,
        trace: Trace | None = None,
        number: int = 0,
    ) -> Tensor:
        # with padding on the right, the causal mask hides it from every real position: then `keep_B11T` is None
        queries = keep_B11T if isinstance(keep_B11T, Packing) else None
        before = self.self_attn_residual.before(x_BTD)
        if self.ssru is not None:
            update = self.ssru(before, queries)
        else:
            assert self.self_attn is not None
            update = self.self_attn(before, keep_B11T=keep_B11T, causal=self.causal)
        x_BTD = self.self_attn_residual.after(x_BTD, update)
        between = self.cross_attn_residual.before(x_BTD)
        if trace is not None:
            assert not isinstance(keep_B11T, Packing)
            assert not isinstance(keep_B11S, Packing)
            trace.keep_map("decoder_self", number, lambda: self._self_attention_map(before, keep_B11T))
            trace.keep_map("cross", number, lambda: self.cross_attn.weights(between, states_BSD, keep_B11S))
        update = self.cross_attn(between, states_BSD, keep_B11S, queries)
        x_BTD = self.cross_attn_residual.after(x_BTD, update)
        return self.ffn_residual.after(x_BTD, self.ffn(self.ffn_residual.before(x_BTD)))

    def _self_attention_map(self, x_BTD: Tensor, keep_B11T: Tensor | None) -> Tensor:
        if self.self_attn is None:
            raise ValueError("a decoder layer with an SSRU has no map of self-attention")
        return self.self_attn.weights(x_BTD, keep_B11T=keep_B11T, causal=self.causal)

    def step(
        self,
        x_ND: Tensor,
        past: Tensor,
        cross_2BHSC: Tensor,
        keep_B11S: Tensor,
        position: int,
        uneven: UnevenRows | None = None,
    ) -> Tensor:
        """Process one position: [N, D].

        Args:
            past: what the layer keeps of earlier positions, updated in place: keys and values [2, N, H, T, C], or the
                state of an SSRU [N, D].
        """
        before = self.self_attn_residual.before(x_ND)
        if self.ssru is not None:
            update = self.ssru.step(before, past)
        else:
            assert self.self_attn is not None
            update = self.self_attn.step(before, past, position)
        x_ND = self.self_attn_residual.after(x_ND, update)
        update = self.cross_attn.step(self.cross_attn_residual.before(x_ND), cross_2BHSC, keep_B11S, uneven)
        x_ND = self.cross_attn_residual.after(x_ND, update)
        return self.ffn_residual.after(x_ND, self.ffn(self.ffn_residual.before(x_ND)))


class Embedder(nn.Module):
    """Token embeddings times sqrt(D), or times 1 with `no_scale_embedding`, plus positions; then norm and dropout.

    The norm is optional (`layernorm_embedding`).

    Args:
        positions: largest number of positions.
        learned: whether positions are learned embeddings instead of sinusoids.
        starts_from_zero: whether the embedding of the first token of each sentence is a zero vector.
    """

    def __init__(
        self,
        tokens: nn.Embedding,
        config: TransformerConfig,
        *,
        positions: int,
        learned: bool,
        starts_from_zero: bool = False,
    ) -> None:
        super().__init__()
        dim, pad = tokens.embedding_dim, tokens.padding_idx
        if pad is None:
            raise ValueError("positions count from the padding id: the embedding has none")
        self.tokens = tokens
        self.positions: LearnedPositions | SinusoidalPositions
        if learned:
            self.positions = LearnedPositions(positions, dim, pad=pad)
        else:
            self.positions = SinusoidalPositions(positions, dim, first=0 if config.layout == "marian" else pad + 1)
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps) if config.layernorm_embedding else None
        self.dropout = Dropout(config.dropout)
        self.scale = 1.0 if config.no_scale_embedding else math.sqrt(dim)
        self.starts_from_zero = starts_from_zero

    def forward(self, tokens_BT: Tensor, *, start: int = 0, packing: Packing | None = None) -> Tensor:
        """Return the embeddings of tokens [B, T] at positions start, start + 1, ...: [B, T, D].

        In a packed row each token has the position in its own sentence.
        """
        x_BTD = self.look_up(tokens_BT)
        if self.starts_from_zero and packing is not None:
            x_BTD = x_BTD.masked_fill(packing.position_N.eq(0)[:, None], 0.0)
        elif self.starts_from_zero and start == 0:
            x_BTD = F.pad(x_BTD[:, 1:], (0, 0, 1, 0))
        return self.place(x_BTD, start=start, packing=packing)

    def look_up(self, tokens_BT: Tensor) -> Tensor:
        """Return the embeddings without positions: [B, T, D]."""
        return self.tokens(tokens_BT) * self.scale

    def place(self, x_BTD: Tensor, *, start: int = 0, packing: Packing | None = None) -> Tensor:
        """Add positions to embeddings, then apply the norm and dropout: [B, T, D]."""
        if packing is None:
            x_BTD = x_BTD + self.positions(start, x_BTD.size(1))
        else:
            x_BTD = x_BTD + self.positions.at(packing.position_N)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return self.dropout(x_BTD)


def _token_embedding(vocab_size: int, dim: int, *, pad: int) -> nn.Embedding:
    embedding = nn.Embedding(vocab_size, dim, padding_idx=pad)
    nn.init.normal_(embedding.weight, mean=0.0, std=dim**-0.5)
    nn.init.zeros_(embedding.weight[pad])
    return embedding


def _decoder_layers(config: TransformerConfig, *, causal: bool) -> list[DecoderLayer]:
    """Return the decoder layers; if they are tied, the same one each time."""
    count = config.decoder_layers
    if config.tied_decoder_layers and count:
        return [DecoderLayer(config, causal=causal)] * count
    return [DecoderLayer(config, causal=causal) for _ in range(count)]


class Transformer(nn.Module):
    """Encoder and decoder (Vaswani et al. 2017).

    Args:
        config: widths, depths and dropout rates.
        src_vocab_size, tgt_vocab_size: number of rows of the embeddings, including the padding of the dictionary.
        pad: id of the padding token, the same in both vocabularies.
        causal: whether a decoder position attends only to itself and earlier positions.
        source_positions, decoder_positions: largest numbers of positions (default: those of `config`), without the
            position of a token of a language that the model itself puts in.

    Raises:
        ValueError: if all embeddings are to be shared and the vocabularies have different sizes.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        src_vocab_size: int,
        tgt_vocab_size: int,
        pad: int,
        causal: bool = True,
        source_positions: int | None = None,
        decoder_positions: int | None = None,
    ) -> None:
        super().__init__()
        if config.share_all_embeddings and src_vocab_size != tgt_vocab_size:
            raise ValueError("sharing all embeddings needs a joined vocabulary")
        self.config = config
        self.src_vocab_size, self.tgt_vocab_size, self.pad = src_vocab_size, tgt_vocab_size, pad
        self.masks: Masks = "needed"
        self.compiled_packed = False  # whether the compiled programs are for packed rows alone
        # rounding of the features of `decode`, for quantisation-aware training (`kdmt.models.quantization`)
        self.round_features: Callable[[Tensor], Tensor] | None = None
        self.recompute_layers = False  # activation checkpointing: keep only the input of a layer, recompute the rest
        src_tokens = _token_embedding(src_vocab_size, config.encoder_embed_dim, pad=pad)
        tgt_tokens = (
            src_tokens
            if config.share_all_embeddings
            else _token_embedding(tgt_vocab_size, config.decoder_embed_dim, pad=pad)
        )
        self.src_embed = Embedder(
            src_tokens,
            config,
            positions=(source_positions or config.max_source_positions) + config.more_encoder_positions,
            learned=config.encoder_learned_pos,
        )
        self.tgt_embed = Embedder(
            tgt_tokens,
            config,
            positions=(decoder_positions or config.max_target_positions) + config.begins_with_token,
            learned=config.decoder_learned_pos,
            starts_from_zero=config.layout == "marian",
        )
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder_layers = nn.ModuleList(_decoder_layers(config, causal=causal))
        eps = config.layer_norm_eps
        self.encoder_norm = nn.LayerNorm(config.encoder_embed_dim, eps) if config.encoder_normalize_before else None
        self.decoder_norm = nn.LayerNorm(config.decoder_embed_dim, eps) if config.decoder_normalize_before else None
        self.output_proj = nn.Linear(config.decoder_embed_dim, tgt_vocab_size, bias=config.layout == "marian")
        if config.layout == "marian":
            nn.init.zeros_(self.output_proj.bias)
        if config.share_all_embeddings or config.share_decoder_input_output_embed:
            self.output_proj.weight = tgt_tokens.weight
        else:
            nn.init.normal_(self.output_proj.weight, mean=0.0, std=config.decoder_embed_dim**-0.5)

    @property
    def output_weight_VD(self) -> Tensor:
        """Output projection, which maps the features of `decode` to logits; a loss may apply it in chunks.

        If the projection has a bias, this is a copy with further columns: the bias and zeros.
        """
        if self.output_proj.bias is None:
            return self.output_proj.weight
        bias_V8 = F.pad(self.output_proj.bias[:, None], (0, _BIAS_COLUMNS - 1))
        return torch.cat([self.output_proj.weight, bias_V8], dim=1)

    def _with_ones(self, x_BTD: Tensor) -> Tensor:
        """Return features for `output_weight_VD`, which have further columns if the output projection has a bias."""
        if self.output_proj.bias is None:
            return x_BTD
        column_8 = x_BTD.new_zeros(_BIAS_COLUMNS)
        column_8[:1] = 1.0
        return torch.cat([x_BTD, column_8.expand(*x_BTD.shape[:-1], -1)], dim=-1)

    def distinct_layers(self) -> list[nn.Module]:
        """Return the layers of encoder and decoder; tied decoder layers are one."""
        return list(dict.fromkeys([*self.encoder_layers, *self.decoder_layers]))

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder_layers if isinstance(layer, DecoderLayer)]

    def compile_layers(self, *, packed: bool = False) -> None:
        """Compile the layers: one program for the encoder layers and one for the decoder layers, for all lengths.

        Packed rows have one shape, for which the programs are made; padded batches are then computed without programs.
        """
        self.masks, self.compiled_packed = "always", packed
        if packed:
            leave_padded_uncompiled()
        if self.config.decoder == "ssru":
            leave_scan_uncompiled()
        layers = self.distinct_layers()
        torch._dynamo.config.recompile_limit = _MAX_PROGRAMS + _MAX_PROGRAMS_A_LAYER * len(layers)
        for layer in layers:
            layer.compile(dynamic=not packed)

    def _run(self, layer: nn.Module, inputs: tuple[Visible, ...], trace: Trace | None, number: int) -> Tensor:
        if trace is not None:  # a map from within the layer needs all activations that led to it
            return layer(*inputs, trace, number)
        if self.recompute_layers and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        if self.compiled_packed and not any(isinstance(each, Packing) for each in inputs):
            return layer.forward(*inputs)  # padded batches of validation: no program for each of their shapes
        return layer(*inputs)

    def encode(
        self, src_tokens_BS: Tensor, trace: Trace | None = None, packing: Packing | None = None
    ) -> EncoderOutput:
        """Encode the source.

        The output has one more position than the source if the model puts a `source_token` before it, and one position
        less if the decoder takes the first token (`target_from_source`).

        Args:
            src_tokens_BS: int64 [B, S]; [1, N] if sentences are packed.
            trace: hidden states and attention maps to record; not for packed sentences.
            packing: limits of packed sentences.

        Raises:
            UserError: if the sentences are packed and the model puts tokens of its own before them.
        """
        if packing is not None:
            return self._encode_packed(src_tokens_BS, packing)
        first_tokens_B = None
        if self.config.target_from_source:
            first_tokens_B, src_tokens_BS = _without_first(src_tokens_BS)
        elif self.config.target_token is not None:
            first_tokens_B = torch.full_like(src_tokens_BS[:, 0], self.config.target_token)
        if self.config.source_token is not None:
            src_tokens_BS = F.pad(src_tokens_BS, (1, 0), value=self.config.source_token)
        keep_BS = src_tokens_BS.ne(self.pad)
        masks = self._encoder_masks(keep_BS)
        x_BSD = self.src_embed(src_tokens_BS)
        for number, (layer, mask) in enumerate(zip(self.encoder_layers, masks, strict=True)):
            inside = None if trace is None else trace.within(("encoder_self",), number)
            x_BSD = self._run(layer, (x_BSD, mask), inside, number)
            if trace is not None:
                trace.keep_state("encoder", number, x_BSD)
        if self.encoder_norm is not None:
            x_BSD = self.encoder_norm(x_BSD)
        return EncoderOutput(states_BSD=x_BSD, keep_BS=keep_BS, first_tokens_B=first_tokens_B)

    def _encoder_masks(self, keep_BS: Tensor) -> list[Tensor | None]:
        """Return the mask of self-attention in each encoder layer; None for no mask other than the causal one."""
        # with padding on the right, the causal mask hides it from every real position
        mask = None if self.config.unidirectional_encoder else _attention_mask(keep_BS, self.masks)
        return [mask] * len(self.encoder_layers)

    def check_unidirectional(self) -> None:
        """Check that the states of the encoder do not depend on later source tokens.

        Raises:
            UserError: if they do.
        """
        if not self.config.unidirectional_encoder:
            raise UserError(
                "wait-k needs a model with a unidirectional encoder ('model.unidirectional_encoder: true'), whose "
                "states do not depend on later words"
            )
        if self.config.target_from_source:
            raise UserError(
                "wait-k: the decoder begins with a language token ('language_tokens'), which is not supported"
            )

    def waiting(self, encoder_output: EncoderOutput, k: int) -> EncoderOutput:
        """Return the output of the encoder for a decoder that follows the wait-k policy (Ma et al. 2019, STACL).

        The target token t, from 0, is predicted from the first min(k + t, S) tokens of the source. If k is S or more,
        this is prediction from the whole source.

        Raises:
            UserError: if the encoder is not unidirectional, so that its states depend on later source tokens.
            ValueError: if k is less than 1, or the sentences are packed.
        """
        self.check_unidirectional()
        if k < 1 or encoder_output.packing is not None:
            raise ValueError(f"wait-k needs padded sentences and k of at least 1 (k is {k})")
        return replace(encoder_output, wait_k=k + (self.config.source_token is not None))

    def _encode_packed(self, src_tokens_1N: Tensor, packing: Packing) -> EncoderOutput:
        if self.config.has_own_tokens:
            raise UserError("train.packing: a model with language tokens of its own does not read packed sentences")
        if src_tokens_1N.is_cuda:
            load_flash()
        x_1ND = self.src_embed(src_tokens_1N, packing=packing)
        for number, layer in enumerate(self.encoder_layers):
            x_1ND = self._run(layer, (x_1ND, packing), None, number)
        x_1ND = x_1ND if self.encoder_norm is None else self.encoder_norm(x_1ND)
        return EncoderOutput(states_BSD=x_1ND, keep_BS=src_tokens_1N.ne(self.pad), packing=packing)

    def decode(
        self,
        prev_tokens_BT: Tensor,
        encoder_output: EncoderOutput,
        trace: Trace | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Return teacher-forced decoder features, before the output projection: [B, T, D].

        `output_weight_VD` maps them to logits. They have further columns if the output projection has a bias.

        Args:
            prev_tokens_BT: int64, decoder input; [1, N] if sentences are packed.
            encoder_output: output for the sources; it is packed if the targets are.
            trace: hidden states and attention maps to record; not for packed sentences.
            packing: limits of packed targets.
        """
        features_BTD = self._states(prev_tokens_BT, encoder_output, trace, packing)
        if self.round_features is not None:
            features_BTD = self.round_features(features_BTD)
        return self._with_ones(features_BTD)

    def _states(
        self,
        prev_tokens_BT: Tensor,
        encoder_output: EncoderOutput,
        trace: Trace | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Return the output of the decoder, [B, T, D]. See `decode`."""
        if packing is not None:
            return self._decode_packed(prev_tokens_BT, encoder_output, packing)
        if encoder_output.first_tokens_B is None:
            return self._decode(self.tgt_embed(prev_tokens_BT), encoder_output, trace)
        first_B1 = encoder_output.first_tokens_B[:, None]
        prev_tokens_BT = torch.cat([prev_tokens_BT[:, :1], first_B1, prev_tokens_BT[:, 1:]], dim=1)
        return self._decode(self.tgt_embed(prev_tokens_BT), encoder_output, trace)[:, 1:]

    def _decode_packed(self, prev_tokens_1N: Tensor, encoder_output: EncoderOutput, packing: Packing) -> Tensor:
        x_1ND = self.tgt_embed(prev_tokens_1N, packing=packing)
        for number, layer in enumerate(self.decoder_layers):
            x_1ND = self._run(layer, (x_1ND, encoder_output.states_BSD, encoder_output.packing, packing), None, number)
        return x_1ND if self.decoder_norm is None else self.decoder_norm(x_1ND)

    def _decode(
        self,
        x_BTD: Tensor,
        encoder_output: EncoderOutput,
        trace: Trace | None,
        keep_BT: Tensor | None = None,
        *,
        layers: int | None = None,
        between: Between | None = None,
    ) -> Tensor:
        """Run all decoder layers or the first `layers` ones. `keep_BT` masks padding if the decoder is not causal.

        With `between`, the input of a layer is computed from the output of the one before it.
        """
        keep_B11S, keep_B11T = self._decoder_masks(x_BTD, encoder_output, keep_BT)
        for number, layer in enumerate(self.decoder_layers[:layers]):
            if between is not None and number:
                x_BTD = between(number - 1, x_BTD)
            inside = None if trace is None else trace.within(("decoder_self", "cross"), number)
            x_BTD = self._run(layer, (x_BTD, encoder_output.states_BSD, keep_B11S, keep_B11T), inside, number)
            if trace is not None:
                trace.keep_state("decoder", number, x_BTD)
        return x_BTD if self.decoder_norm is None else self.decoder_norm(x_BTD)

    def _decoder_masks(
        self, x_BTD: Tensor, encoder_output: EncoderOutput, keep_BT: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the masks of cross-attention and of self-attention in the decoder; None for no mask."""
        keep_B11T = None if keep_BT is None else _attention_mask(keep_BT, self.masks)
        if encoder_output.wait_k is None:
            return _attention_mask(encoder_output.keep_BS, self.masks), keep_B11T
        first = -1 if self.config.begins_with_token else 0
        source = encoder_output.keep_BS[:, None, None, :]
        prefix_TS = visible_prefix(first, x_BTD.size(1), source.size(3), encoder_output.wait_k, source.device)
        return source & prefix_TS, keep_B11T

    def forward(self, src_tokens_BS: Tensor, prev_tokens_BT: Tensor) -> Tensor:
        """Return teacher-forced logits: [B, T, V]."""
        return self.output_proj(self._states(prev_tokens_BT, self.encode(src_tokens_BS)))

    def start_cache(self, encoder_output: EncoderOutput, *, beam: int, max_len: int) -> DecoderCache:
        """Return a cache for `beam` rows per sentence and up to `max_len` positions."""
        states_BSD = encoder_output.states_BSD
        heads, rows = self.config.decoder_attention_heads, states_BSD.size(0) * beam
        max_len += self.config.begins_with_token
        shape = (2, rows, heads, max_len, self.config.decoder_embed_dim // heads)
        layers = self._decoder_layers()
        cross_2BHSC = [layer.cross_attn.keys_values(states_BSD) for layer in layers]
        attends = self.config.decoder == "self_attention"
        cache = DecoderCache(
            length=0,
            beam=beam,
            self_2NHTC=[each.new_empty(shape) for each in cross_2BHSC if attends],  # bf16 under autocast
            states_ND=[layer.ssru.first_state(rows, states_BSD) for layer in layers if layer.ssru is not None],
            cross_2BHSC=cross_2BHSC,
            keep_B11S=encoder_output.keep_BS[:, None, None, :],
            wait_k=encoder_output.wait_k,
            first_tokens_B=encoder_output.first_tokens_B,
        )
        if self.config.begins_with_token:  # </s> comes before it; `decode_step` then replaces the first token
            self._step(torch.full((rows,), EOS, device=states_BSD.device), cache)
        return cache

    def decode_step(self, last_tokens_N: Tensor, cache: DecoderCache) -> Tensor:
        """Return the logits of the token that follows the last one of each row, [N, V].

        The cache advances by one position.
        """
        if cache.first_tokens_B is not None:
            last_tokens_N = cache.first_tokens_B.repeat_interleave(cache.beam)
            cache.first_tokens_B = None
        return self.output_proj(self._step(last_tokens_N, cache))

    def _step(self, last_tokens_N: Tensor, cache: DecoderCache) -> Tensor:
        """Return the features of the next token, [N, D], and advance the cache by one position."""
        x_ND = self.tgt_embed(last_tokens_N[:, None], start=cache.length)[:, 0]
        visible_B11S = cache.visible(cache.length - self.config.begins_with_token)
        layers = zip(self._decoder_layers(), cache.self_2NHTC or cache.states_ND, cache.cross_2BHSC, strict=True)
        for layer, past, cross_2BHSC in layers:
            x_ND = layer.step(x_ND, past, cross_2BHSC, visible_B11S, cache.length, cache.uneven)
        cache.length += 1
        return x_ND if self.decoder_norm is None else self.decoder_norm(x_ND)


def _without_first(src_tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first token of each source, int64 [B], and the others, int64 [B, S - 1].

    A source without words, </s> alone, keeps it.
    """
    first_B = src_tokens_BS[:, 0]
    rest_BS = src_tokens_BS[:, 1:] if src_tokens_BS.size(1) > 1 else src_tokens_BS
    rest_B1 = torch.where(first_B == EOS, EOS, rest_BS[:, 0])[:, None]
    return first_B, torch.cat([rest_B1, rest_BS[:, 1:]], dim=1)


def _attention_mask(keep_BS: Tensor, masks: Masks) -> Tensor | None:
    """Return the mask of the real tokens, [B, 1, 1, S], or None if no mask is applied.

    With `needed` it is None on a CPU if there is no padding, which is faster. On a GPU this is not checked, since the
    host would have to wait for the result.
    """
    if masks == "never":
        return None
    if masks == "needed" and keep_BS.device.type == "cpu" and bool(keep_BS.all()):
        return None
    return keep_BS[:, None, None, :]
