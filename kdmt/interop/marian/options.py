"""Options of Marian: those of a model (`special:model.yml`) and those of its decoder. This module does not load torch.

The option names are those of marian-dev 1.12 (src/common/config_parser.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdmt.errors import UserError
from kdmt.interop.streaming_models import refuse_unidirectional
from kdmt.models.architecture import TransformerConfig

# Options of a model with the only value that kdmt's models have. An option that is missing has this value too, or one
# that means the same.
_FIXED: dict[str, Any] = {
    "type": "transformer",
    "enc-cell": "gru",
    "enc-cell-depth": 1,
    "enc-type": "bidirectional",
    "dec-cell-base-depth": 2,
    "dec-cell-high-depth": 1,
    "dim-rnn": 1024,
    "skip": False,
    "layer-normalization": False,
    "right-left": False,
    "input-types": [],
    "tied-embeddings-src": False,
    "output-omit-bias": False,
    "lemma-dim-emb": 0,
    "lemma-dependency": "",
    "factors-combine": "sum",
    "factors-dim-emb": 0,
    "ulr": False,
    "ulr-dim-emb": 0,
    "ulr-trainable-transformation": False,
    "bert-train-type-embeddings": True,
    "bert-type-vocab-size": 2,
    "transformer-no-projection": False,
    "transformer-no-bias": False,
    "transformer-no-affine": False,
    "transformer-rnn-projection": False,
    "transformer-pool": False,
    "transformer-preprocess": "",
    "transformer-postprocess": "dan",
    "transformer-postprocess-top": "",
    "transformer-ffn-depth": 2,
    "transformer-decoder-ffn-depth": 0,
    "transformer-aan-depth": 2,
    "transformer-aan-activation": "swish",
    "transformer-aan-nogate": False,
    "transformer-dim-aan": 2048,
    "transformer-guided-alignment-layer": "last",
    "transformer-attention-mask": "default",
    "transformer-alibi-shift": False,
    "transformer-alibi-trainable": False,
    "transformer-disable-position-embeddings": False,
    "transformer-train-position-embeddings": False,
    "transformer-train-positions": False,
}
# options without an effect on the models that kdmt reads
_WITHOUT_EFFECT = (
    *("enc-cell", "enc-cell-depth", "enc-type", "dec-cell-base-depth", "dec-cell-high-depth", "dim-rnn", "skip"),
    *("input-types", "lemma-dependency", "factors-combine", "factors-dim-emb", "right-left"),
    *("ulr-dim-emb", "ulr-trainable-transformation", "bert-train-type-embeddings", "bert-type-vocab-size"),
    *("transformer-aan-depth", "transformer-aan-activation", "transformer-aan-nogate", "transformer-dim-aan"),
    *("transformer-guided-alignment-layer", "tied-embeddings-src", "output-omit-bias"),
)
_VERSION = "v1.12.0"  # version of Marian whose options these are


# -------------------------------------------------------------------------------------------------------------- writing


def model_options(config: TransformerConfig, vocab_sizes: Sequence[int]) -> dict[str, Any]:
    """Return the options of a model.

    Args:
        config: architecture with Marian's layout.
        vocab_sizes: number of source and of target tokens.

    Raises:
        UserError: if Marian has no such model.
    """
    check_config(config)
    differing_ffn = config.decoder_ffn_embed_dim != config.encoder_ffn_embed_dim
    return {
        **_FIXED,
        "version": _VERSION,
        "dim-vocabs": list(vocab_sizes),
        "dim-emb": config.encoder_embed_dim,
        "enc-depth": config.encoder_layers,
        "dec-depth": config.decoder_layers,
        "dec-cell": "ssru" if config.decoder == "ssru" else "gru",
        "tied-embeddings": config.share_decoder_input_output_embed and not config.share_all_embeddings,
        "tied-embeddings-all": config.share_all_embeddings,
        "transformer-heads": config.encoder_attention_heads,
        "transformer-dim-ffn": config.encoder_ffn_embed_dim,
        "transformer-decoder-dim-ffn": config.decoder_ffn_embed_dim if differing_ffn else 0,
        "transformer-ffn-activation": config.activation_fn,
        "transformer-decoder-autoreg": "rnn" if config.decoder == "ssru" else "self-attention",
        "transformer-postprocess-emb": "nd" if config.layernorm_embedding else "d",
        "transformer-tied-layers": [1] * config.decoder_layers if config.tied_decoder_layers else [],
    }


def check_config(config: TransformerConfig) -> None:
    """Check that Marian has such a model.

    Raises:
        UserError: if it has none.
    """
    if config.layout != "marian":
        raise UserError(
            "the model has fairseq's numerics, which Marian does not compute: train a student with 'layout: marian'"
        )
    refuse_unidirectional(config, "Marian")
    if config.has_own_tokens:
        raise UserError("the model is multilingual: Marian puts no language tokens into sentences by itself")
    for side in ("encoder", "decoder"):
        if not getattr(config, f"{side}_layers"):
            raise UserError(f"Marian has no {side} without layers (model.{side}_layers is 0)")


def decoder_options(model: str, vocabularies: Sequence[str], *, beam: int, lenpen: float) -> dict[str, Any]:
    """Return the content of `decoder.yml` for a search like that of kdmt.

    Args:
        model: name of the model file.
        vocabularies: names of the source and the target vocabulary.
    """
    return {
        "relative-paths": True,
        "models": [model],
        "vocabs": list(vocabularies),
        "beam-size": beam,
        "normalize": lenpen,
        "word-penalty": 0,
        "allow-unk": True,
        "mini-batch": 32,
        "maxi-batch": 100,
        "maxi-batch-sort": "src",
        "max-length-factor": 3,
        "skip-cost": False,
    }


# -------------------------------------------------------------------------------------------------------------- reading


def read_config(options: Mapping[str, Any], *, max_positions: int) -> TransformerConfig:
    """Return the architecture that the options of a model describe.

    Args:
        options: content of `special:model.yml`.
        max_positions: largest number of positions; Marian computes its sinusoids for any number.

    Raises:
        UserError: if it is another kind of model, or an option has a value that kdmt does not support. The message
            names the option.
    """
    for name, value in _FIXED.items():
        if name not in _WITHOUT_EFFECT and name in options and _normal(name, options[name]) != _normal(name, value):
            raise UserError(f"option {name!r} is {_shown(options[name])}: kdmt has only models with {_shown(value)}")
    activation = _one_of(options, "transformer-ffn-activation", {"relu": "relu", "swish": "swish"}, "swish")
    autoregression = _one_of(
        options, "transformer-decoder-autoreg", {"self-attention": "self_attention", "rnn": "ssru"}, "self-attention"
    )
    if autoregression == "ssru":
        _one_of(options, "dec-cell", {"ssru": "ssru"}, "gru")
    layers = {side: _integer(options, f"{side[:3]}-depth") for side in ("encoder", "decoder")}
    ffn = _integer(options, "transformer-dim-ffn")
    sizes: dict[str, Any] = {}
    for side, count in layers.items():
        sizes |= {
            f"{side}_layers": count,
            f"{side}_embed_dim": _integer(options, "dim-emb"),
            f"{side}_attention_heads": _integer(options, "transformer-heads"),
            f"{side}_ffn_embed_dim": (side == "decoder" and options.get("transformer-decoder-dim-ffn")) or ffn,
        }
    tied = bool(options.get("tied-embeddings-all"))
    return TransformerConfig(
        **sizes,
        layout="marian",
        decoder=autoregression,
        tied_decoder_layers=_tied_layers(options, layers["decoder"]),
        activation_fn=activation,
        share_all_embeddings=tied,
        share_decoder_input_output_embed=not tied and bool(options.get("tied-embeddings")),
        layernorm_embedding=_norm_of_embeddings(options),
        max_source_positions=max_positions,
        max_target_positions=max_positions,
    )


def _normal(name: str, value: object) -> object:
    """Return the value of an option; of a list of operations, those other than dropout."""
    if name in ("transformer-preprocess", "transformer-postprocess", "transformer-postprocess-top"):
        return str(value or "").replace("d", "")
    return value


def _norm_of_embeddings(options: Mapping[str, Any]) -> bool:
    value = str(options.get("transformer-postprocess-emb", "d") or "")
    if value.replace("d", "") not in ("", "n"):
        raise UserError(f"option 'transformer-postprocess-emb' is {_shown(value)}: kdmt has only 'd' and 'nd'")
    return "n" in value


def _tied_layers(options: Mapping[str, Any], layers: int) -> bool:
    """Return whether all decoder layers are one layer."""
    value = options.get("transformer-tied-layers") or []
    if value in ([], list(range(1, layers + 1))):
        return False
    if value != [1] * layers:
        raise UserError(f"option 'transformer-tied-layers' is {_shown(value)}: kdmt ties all decoder layers or none")
    return True


def _one_of(options: Mapping[str, Any], name: str, known: Mapping[str, str], default: str) -> Any:
    value = options.get(name, default)
    if value not in known:
        raise UserError(f"option {name!r} is {_shown(value)}: kdmt has only {', '.join(known)}")
    return known[value]


def _integer(options: Mapping[str, Any], name: str) -> int:
    value = options.get(name)
    if type(value) is not int or value < 1:
        raise UserError(f"option {name!r} is {_shown(value)}, expected a whole number from 1 on")
    return value


def _shown(value: object) -> str:
    return repr(value)[:80]
