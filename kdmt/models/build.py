"""Construction of models from their descriptions. `MODELS` is the only list of the kinds of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kdmt.errors import UserError
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.description import check_description, check_numbers
from kdmt.models.initialise import draw_bert_weights
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.types import PAD


def build_transformer(config: TransformerConfig, *, src_vocab_size: int, tgt_vocab_size: int) -> Transformer:
    """Build a Transformer with new weights, drawn from PyTorch's global generator.

    Raises:
        UserError: if the model is too large, a number is out of range, or embeddings are to be shared by vocabularies
            of different sizes.
    """
    _check_sizes(config, src_vocab_size, tgt_vocab_size)
    model = Transformer(config, src_vocab_size=src_vocab_size, tgt_vocab_size=tgt_vocab_size, pad=PAD)
    if config.init == "bert":
        draw_bert_weights(model)
    return model


def build_nonautoregressive(
    config: TransformerConfig, nat: NATConfig, *, src_vocab_size: int, tgt_vocab_size: int
) -> NATransformer:
    """Build a non-autoregressive Transformer with new weights. See `build_transformer`."""
    _check_sizes(config, src_vocab_size, tgt_vocab_size)
    if config.layout == "marian":
        raise UserError("model.layout: Marian has no non-autoregressive decoders")
    if config.unidirectional_encoder:
        raise UserError(
            "model.unidirectional_encoder: for autoregressive models; a streaming 'ctc' student has 'nat.streaming'"
        )
    if nat.streaming is not None and config.source_token is not None:
        raise UserError("nat.streaming: a model that puts a token before the source has no chunks of the source alone")
    if config.decoder == "ssru":
        raise UserError("model.decoder: an SSRU reads positions in their order, a non-autoregressive decoder does not")
    model = NATransformer(config, nat, src_vocab_size=src_vocab_size, tgt_vocab_size=tgt_vocab_size, pad=PAD)
    if config.init == "bert":
        draw_bert_weights(model)
    return model


def _check_sizes(config: TransformerConfig, src_vocab_size: int, tgt_vocab_size: int) -> None:
    check_numbers(config, "model")
    if count_stored(config, src_vocab_size, tgt_vocab_size) > _MOST_WEIGHTS:
        raise UserError(f"model: it would have more than {_MOST_WEIGHTS:,} weights")
    if config.share_all_embeddings and src_vocab_size != tgt_vocab_size:
        raise UserError(
            f"model.share_all_embeddings needs a joined vocabulary; "
            f"source has {src_vocab_size} symbols, target {tgt_vocab_size}"
        )


_MOST_WEIGHTS = 100_000_000_000  # 400 GB


def count_stored(config: TransformerConfig, src_vocab_size: int, tgt_vocab_size: int) -> int:
    """Return a lower bound of the number of weights of a model: embeddings, and the matrices of its layers."""
    encoder, decoder = config.encoder_embed_dim, config.decoder_embed_dim
    embeddings = max(src_vocab_size * encoder, tgt_vocab_size * decoder)  # counted once, since they may be shared
    encoder_layer = 4 * encoder**2 + 2 * encoder * config.encoder_ffn_embed_dim
    own = 2 if config.decoder == "ssru" else 4
    decoder_layer = (own + 2) * decoder**2 + 2 * decoder * config.decoder_ffn_embed_dim
    decoder_layers = min(config.decoder_layers, 1) if config.tied_decoder_layers else config.decoder_layers
    return embeddings + config.encoder_layers * encoder_layer + decoder_layers * decoder_layer


def _transformer_from(description: Mapping[str, Any]) -> Transformer:
    return build_transformer(
        TransformerConfig(**description["config"]),
        src_vocab_size=description["src_vocab_size"],
        tgt_vocab_size=description["tgt_vocab_size"],
    )


def _nonautoregressive_from(description: Mapping[str, Any]) -> NATransformer:
    return build_nonautoregressive(
        TransformerConfig(**description["config"]),
        NATConfig(**description["nat"]),
        src_vocab_size=description["src_vocab_size"],
        tgt_vocab_size=description["tgt_vocab_size"],
    )


MODELS: Mapping[str, Callable[[Mapping[str, Any]], Transformer]] = {
    "transformer": _transformer_from,
    "nonautoregressive": _nonautoregressive_from,
}


def describe_model(model: Transformer) -> dict[str, Any]:
    """Return JSON values from which `build_model` builds a model of the same shape."""
    description = {
        "family": "transformer",
        "config": model.config.as_dict(),
        "src_vocab_size": model.src_vocab_size,
        "tgt_vocab_size": model.tgt_vocab_size,
    }
    if isinstance(model, NATransformer):
        description |= {"family": "nonautoregressive", "nat": model.nat.as_dict()}
    return description


def build_model(description: Mapping[str, Any]) -> Transformer:
    """Build a model from a description of `describe_model`, with new weights.

    Raises:
        UserError: if the family is unknown, or a value is missing, unknown or out of range.
    """
    check_description(description)
    return MODELS[description["family"]](description)


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
