"""Export of an autoregressive Transformer as a CTranslate2 model.

`kdmt.interop.ctranslate2_folder` defines the format of the folder. Token lists given to the model end in </s>; the
decoder starts from </s>. Names and layout are those of ctranslate2/specs/transformer_spec.py (4.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from kdmt.choices import ComputeType as Quantization
from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.errors import UserError
from kdmt.files import naming
from kdmt.interop.ctranslate2_folder import MODEL_FILE, translate_options, write_options
from kdmt.interop.export_folder import check_new, described_folder
from kdmt.interop.model_card import ExportFormat
from kdmt.interop.streaming_models import refuse_unidirectional
from kdmt.models.attention import CrossAttention, SelfAttention
from kdmt.models.build import describe_model
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import DecoderLayer, Embedder, EncoderLayer, Residual, Transformer
from kdmt.types import EOS, SPECIALS

if TYPE_CHECKING:
    from ctranslate2.specs import TransformerDecoderSpec, TransformerEncoderSpec, TransformerSpec
    from ctranslate2.specs.attention_spec import MultiHeadAttentionSpec
    from ctranslate2.specs.common_spec import EmbeddingsSpec, LayerNormSpec, LinearSpec
    from ctranslate2.specs.transformer_spec import TransformerDecoderLayerSpec, TransformerEncoderLayerSpec


CARD = ExportFormat(
    "CTranslate2",
    """
```python
import json
from pathlib import Path

import ctranslate2

folder = "FOLDER"  # of this file
translator = ctranslate2.Translator(folder)
options = json.loads((Path(folder) / "translate.json").read_text())
sources = [[*pieces, "</s>"] for pieces in tokenized]  # sentences as lists of pieces of the tokenizer
results = translator.translate_batch(sources, **options)
```

`text.json` describes the processing of text before the tokenizer in `tokenizer/`. `kdmt translate FOLDER < input` does
everything. `translate.json` holds the search settings.
""",
    library="ctranslate2",
    tags=("ctranslate2",),
)


def export_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    quantization: Quantization = "float32",
    decode: Decode | None = None,
    card: str | None = None,
) -> None:
    """Write the model of a checkpoint, with its tokenizer and text processing, as a CTranslate2 model.

    Args:
        checkpoint: a checkpoint folder, a pointer file or a run.
        folder: the new folder.
        quantization, decode, card: as for `export_model`.

    Raises:
        UserError: if there is no checkpoint, and in the cases of `export_model`.
    """
    source = resolve_checkpoint(checkpoint)
    log_opened(checkpoint, source)
    codec = TextCodec.load(source)
    export_model(
        load_model(source),
        folder,
        src_symbols=codec.src_dictionary.symbols,
        tgt_symbols=codec.tgt_dictionary.symbols,
        quantization=quantization,
        decode=decode,
        companions=codec.companions(source),
        card=card,
    )


def export_model(
    model: Transformer,
    folder: Path,
    *,
    src_symbols: Sequence[str],
    tgt_symbols: Sequence[str],
    quantization: Quantization = "float32",
    decode: Decode | None = None,
    companions: Sequence[Path] = (),
    card: str | None = None,
) -> None:
    """Write a Transformer as a CTranslate2 model. An error leaves no partial folder; the model is not modified.

    Args:
        model: model on any device, of any floating-point type.
        folder: the new folder.
        src_symbols, tgt_symbols: token of each id (`Dictionary.symbols`).
        quantization: number type of the stored weights; only embeddings and matrices become int8 or int16. The type
            after `int8_` is that of the other weights and of the computation between matrix products.
        decode: search settings that `translate.json` proposes (default: the defaults of `Decode`).
        companions: files and folders to copy into the folder of the model.
        card: model card; None for none.

    Raises:
        UserError: if the folder exists, CTranslate2 is not installed, or CTranslate2 does not support the model or
            the vocabulary.
    """
    check_new(folder)
    if quantization not in get_args(Quantization):
        raise UserError(f"quantization {quantization!r} is none of {', '.join(get_args(Quantization))}")
    _check_model(model)
    _check_symbols(src_symbols, model.src_vocab_size, "source")
    _check_symbols(tgt_symbols, model.tgt_vocab_size, "target")
    spec = _specification(model, src_symbols, tgt_symbols)
    spec.optimize(quantization=quantization)
    with described_folder(folder, describe_model(model), companions, card=card) as aside:
        with naming(folder / MODEL_FILE):
            spec.save(str(aside))
        options = translate_options(decode or Decode(), model.config.max_target_positions)
        write_options(aside, options)


def _check_model(model: Transformer) -> None:
    if isinstance(model, NATransformer):
        raise UserError(
            f"CTranslate2 writes one token after the other: it has no decoder for a {model.nat.family!r} model, "
            "which is non-autoregressive"
        )
    refuse_unidirectional(model.config, "CTranslate2")
    if model.config.source_token is not None or model.config.target_token is not None:
        raise UserError("the model is multilingual: CTranslate2's engine puts no language tokens into sentences")
    if model.config.decoder == "ssru":
        raise UserError(
            "the decoder has SSRUs ('model.decoder: ssru'), which CTranslate2 has not: Marian, Bergamot, "
            "ONNX Runtime and PyTorch run the model; 'model.decoder: self_attention' trains one for CTranslate2"
        )
    for side in ("encoder", "decoder"):
        if not getattr(model.config, f"{side}_layers"):
            raise UserError(f"CTranslate2 has no {side} without layers (model.{side}_layers is 0)")


def _check_symbols(symbols: Sequence[str], size: int, side: str) -> None:
    if len(symbols) != size:
        raise UserError(f"the {side} dictionary has {len(symbols)} symbols, the model {size}")
    if tuple(symbols[: len(SPECIALS)]) != SPECIALS:
        raise UserError(f"the {side} dictionary does not begin with {' '.join(SPECIALS)}")
    seen: set[str] = set()
    for symbol in symbols:
        if symbol in seen:
            raise UserError(f"the {side} dictionary lists {symbol!r} twice; CTranslate2 knows a token by its spelling")
        seen.add(symbol)


def _specification(model: Transformer, src_symbols: Sequence[str], tgt_symbols: Sequence[str]) -> TransformerSpec:
    """Return the validated CTranslate2 specification with copies of all weights."""
    try:
        from ctranslate2 import specs
    except ImportError:
        raise UserError("CTranslate2 is not installed: pip install ctranslate2") from None
    config = model.config
    activation = {
        "relu": specs.Activation.RELU,
        "gelu": specs.Activation.GELU,
        "swish": specs.Activation.SWISH,
    }[config.activation_fn]
    encoder = specs.TransformerEncoderSpec(
        config.encoder_layers,
        config.encoder_attention_heads,
        pre_norm=config.encoder_normalize_before,
        activation=activation,
        layernorm_embedding=config.layernorm_embedding,
    )
    decoder = specs.TransformerDecoderSpec(
        config.decoder_layers,
        config.decoder_attention_heads,
        pre_norm=config.decoder_normalize_before,
        activation=activation,
        layernorm_embedding=config.layernorm_embedding,
    )
    _fill_encoder(encoder, model)
    _fill_decoder(decoder, model)
    spec = specs.TransformerSpec(encoder, decoder)
    spec.config.decoder_start_token = SPECIALS[EOS]
    spec.config.add_source_bos = spec.config.add_source_eos = False
    spec.config.layer_norm_epsilon = _layer_norm_epsilon(model)
    spec.register_source_vocabulary(list(src_symbols))
    spec.register_target_vocabulary(list(tgt_symbols))
    spec.validate()
    return spec


def _layer_norm_epsilon(model: Transformer) -> float:
    """Return the epsilon shared by all layer norms of the model."""
    (epsilon,) = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
    return epsilon


def _fill_encoder(spec: TransformerEncoderSpec, model: Transformer) -> None:
    num_positions = model.config.max_source_positions + model.config.more_encoder_positions
    _fill_embedder(spec, spec.embeddings[0], model.src_embed, num_positions)
    for layer_spec, layer in zip(spec.layer, model.encoder_layers, strict=True):
        _fill_layer(layer_spec, cast(EncoderLayer, layer))
    if model.encoder_norm is not None:
        _fill_norm(spec.layer_norm, model.encoder_norm)


def _fill_decoder(spec: TransformerDecoderSpec, model: Transformer) -> None:
    num_positions = model.config.max_target_positions + model.config.begins_with_token
    _fill_embedder(spec, spec.embeddings, model.tgt_embed, num_positions)
    for layer_spec, layer in zip(spec.layer, model.decoder_layers, strict=True):
        layer = cast(DecoderLayer, layer)
        _fill_layer(layer_spec, layer)
        _fill_cross_attention(layer_spec.attention, layer.cross_attn, layer.cross_attn_residual)
    if model.decoder_norm is not None:
        _fill_norm(spec.layer_norm, model.decoder_norm)
    spec.start_from_zero_embedding = model.tgt_embed.starts_from_zero
    _fill_linear(spec.projection, model.output_proj)


def _fill_embedder(
    spec: TransformerEncoderSpec | TransformerDecoderSpec,
    embeddings: EmbeddingsSpec,
    embedder: Embedder,
    num_positions: int,
) -> None:
    embeddings.weight = _array(embedder.tokens.weight)
    spec.scale_embeddings = np.float32(embedder.scale)
    spec.position_encodings.encodings = _array(embedder.positions(0, num_positions))
    if embedder.norm is not None:
        _fill_norm(spec.layernorm_embedding, embedder.norm)


def _fill_layer(
    spec: TransformerEncoderLayerSpec | TransformerDecoderLayerSpec, layer: EncoderLayer | DecoderLayer
) -> None:
    """Fill in the parts that encoder and decoder layers have in common."""
    assert layer.self_attn is not None
    _fill_self_attention(spec.self_attention, layer.self_attn, layer.self_attn_residual)
    _fill_linear(spec.ffn.linear_0, layer.ffn.fc1)
    _fill_linear(spec.ffn.linear_1, layer.ffn.fc2)
    _fill_norm(spec.ffn.layer_norm, layer.ffn_residual.norm)


def _fill_self_attention(spec: MultiHeadAttentionSpec, attention: SelfAttention, residual: Residual) -> None:
    _fill_linear(spec.linear[0], attention.qkv_proj)  # stacked like the result of `fuse_linear`: queries, keys, values
    _fill_linear(spec.linear[1], attention.out_proj)
    _fill_norm(spec.layer_norm, residual.norm)


def _fill_cross_attention(spec: MultiHeadAttentionSpec, attention: CrossAttention, residual: Residual) -> None:
    _fill_linear(spec.linear[0], attention.q_proj)
    _fill_linear(spec.linear[1], attention.kv_proj)
    _fill_linear(spec.linear[2], attention.out_proj)
    _fill_norm(spec.layer_norm, residual.norm)


def _fill_linear(spec: LinearSpec, linear: nn.Linear) -> None:
    spec.weight = _array(linear.weight)
    if linear.bias is not None:
        spec.bias = _array(linear.bias)


def _fill_norm(spec: LayerNormSpec, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _array(tensor: Tensor) -> np.ndarray:
    """Return a float32 copy of a tensor. A copy is needed because quantisation changes arrays in place."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
