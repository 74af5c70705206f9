"""Conversion of weights between Marian's names and kdmt's names, in both directions. This module does not load torch.

Marian multiplies inputs from the left, so that its matrices are the transposes of those of PyTorch; its vectors have
two axes, [1, D]. The names are those of marian-dev 1.12 (src/models/transformer.h, src/rnn/cells.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdmt.errors import UserError
from kdmt.interop.marian.rows import TokenRows
from kdmt.models.architecture import TransformerConfig

Weights = dict[str, NDArray[np.float32]]

Kind = Literal["matrix", "vector", "source_rows", "target_rows", "target_bias"]


@dataclass(frozen=True)
class Part:
    """Parameters of Marian that are one parameter of kdmt: rows below each other, if there are several.

    Attributes:
        names: Marian's names.
        kind: `matrix` for a matrix, which is transposed, `vector` for a vector; `source_rows` and `target_rows` for a
            matrix with a row for each token, `target_bias` for a vector with a value for each token.
    """

    names: tuple[str, ...]
    kind: Kind


def parts(config: TransformerConfig) -> dict[str, Part]:
    """Return the parameters of a model by kdmt's names."""
    found = _embeddings(config)
    for number in range(config.encoder_layers):
        ours, theirs = f"encoder_layers.{number}", f"encoder_l{number + 1}"
        found |= _attention(f"{ours}.self_attn", f"{theirs}_self")
        found |= _feed_forward(ours, theirs)
    for number in range(1 if config.tied_decoder_layers else config.decoder_layers):
        ours, theirs = f"decoder_layers.{number}", f"decoder_l{number + 1}"
        if config.decoder == "ssru":
            found |= _ssru(ours, f"{theirs}_rnn")
        else:
            found |= _attention(f"{ours}.self_attn", f"{theirs}_self")
        found |= _cross_attention(f"{ours}.cross_attn", f"{theirs}_context")
        found |= _feed_forward(ours, theirs)
    return found


def _embeddings(config: TransformerConfig) -> dict[str, Part]:
    if config.share_all_embeddings:
        found = {"src_embed.tokens.weight": Part(("Wemb",), "target_rows")}
    else:
        found = {
            "src_embed.tokens.weight": Part(("encoder_Wemb",), "source_rows"),
            "tgt_embed.tokens.weight": Part(("decoder_Wemb",), "target_rows"),
        }
        if not config.share_decoder_input_output_embed:
            found["output_proj.weight"] = Part(("decoder_ff_logit_out_Wt",), "target_rows")
    for ours, theirs in (("src_embed", "encoder"), ("tgt_embed", "decoder")):
        if config.layernorm_embedding:
            found |= _norm(f"{ours}.norm", f"{theirs}_emb", "_pre")
    return found | {"output_proj.bias": Part(("decoder_ff_logit_out_b",), "target_bias")}


def _attention(ours: str, theirs: str) -> dict[str, Part]:
    return {
        **_linear(f"{ours}.qkv_proj", theirs, "q", "k", "v"),
        **_linear(f"{ours}.out_proj", theirs, "o"),
        **_norm(f"{ours}_residual.norm", f"{theirs}_Wo"),
    }


def _cross_attention(ours: str, theirs: str) -> dict[str, Part]:
    return {
        **_linear(f"{ours}.q_proj", theirs, "q"),
        **_linear(f"{ours}.kv_proj", theirs, "k", "v"),
        **_linear(f"{ours}.out_proj", theirs, "o"),
        **_norm(f"{ours}_residual.norm", f"{theirs}_Wo"),
    }


def _ssru(ours: str, theirs: str) -> dict[str, Part]:
    """Return the parameters of an SSRU layer."""
    return {
        f"{ours}.ssru.state_proj.weight": Part((f"{theirs}_W",), "matrix"),
        f"{ours}.ssru.gate_proj.weight": Part((f"{theirs}_Wf",), "matrix"),
        f"{ours}.ssru.gate_proj.bias": Part((f"{theirs}_bf",), "vector"),
        **_norm(f"{ours}.self_attn_residual.norm", f"{theirs}_ffn"),
    }


def _feed_forward(ours: str, theirs: str) -> dict[str, Part]:
    return {
        **_linear(f"{ours}.ffn.fc1", f"{theirs}_ffn", "1"),
        **_linear(f"{ours}.ffn.fc2", f"{theirs}_ffn", "2"),
        **_norm(f"{ours}.ffn_residual.norm", f"{theirs}_ffn_ffn"),
    }


def _linear(ours: str, theirs: str, *suffixes: str) -> dict[str, Part]:
    return {
        f"{ours}.weight": Part(tuple(f"{theirs}_W{suffix}" for suffix in suffixes), "matrix"),
        f"{ours}.bias": Part(tuple(f"{theirs}_b{suffix}" for suffix in suffixes), "vector"),
    }


def _norm(ours: str, theirs: str, suffix: str = "") -> dict[str, Part]:
    return {
        f"{ours}.weight": Part((f"{theirs}_ln_scale{suffix}",), "vector"),
        f"{ours}.bias": Part((f"{theirs}_ln_bias{suffix}",), "vector"),
    }


# --------------------------------------------------------------------------------------------------------- conversion


def to_marian(weights: Mapping[str, NDArray[Any]], config: TransformerConfig, rows: TokenRows) -> Weights:
    """Convert the weights of a model to Marian's parameters.

    Args:
        weights: kdmt's weights, by name; a shared one under its first name.
        rows: kdmt's id of each of Marian's ids.
    """
    converted: Weights = {}
    for ours, part in parts(config).items():
        array = np.asarray(weights[ours], dtype=np.float32)
        for name, piece in zip(part.names, np.split(array, len(part.names)), strict=True):
            converted[name] = np.ascontiguousarray(_to_marian(piece, part.kind, rows))
    return converted


def _to_marian(array: NDArray[np.float32], kind: Kind, rows: TokenRows) -> NDArray[np.float32]:
    if kind == "matrix":
        return array.T
    if kind == "vector":
        return array[None]
    if kind == "target_bias":
        return rows.target.bias(array)[None]
    return (rows.source if kind == "source_rows" else rows.target).matrix(array)


def from_marian(parameters: Mapping[str, NDArray[np.float32]], config: TransformerConfig, rows: TokenRows) -> Weights:
    """Convert Marian's parameters to weights of the kdmt model of the same shape. The inverse of `to_marian`.

    Args:
        parameters: Marian's parameters, all of which must be used.
        rows: Marian's id of each of kdmt's ids.

    Raises:
        UserError: if parameters are missing, are not part of the model, or have another shape than the options say.
    """
    wanted = parts(config)
    names = {name for part in wanted.values() for name in part.names}
    if missing := sorted(names - set(parameters)):
        raise UserError(f"not the parameters of its options: missing {', '.join(missing[:3])}")
    if extra := sorted(set(parameters) - names):
        raise UserError(f"not the parameters of its options: no place for {', '.join(extra[:3])}")
    return {
        ours: np.ascontiguousarray(
            np.concatenate([_from_marian(parameters[n], n, part.kind, rows) for n in part.names])
        )
        for ours, part in wanted.items()
    }


def _from_marian(array: NDArray[np.float32], name: str, kind: Kind, rows: TokenRows) -> NDArray[np.float32]:
    if array.ndim != 2 or (kind in ("vector", "target_bias") and len(array) != 1):
        raise UserError(f"{name} is {list(array.shape)}")
    if kind == "matrix":
        return array.T
    if kind == "vector":
        return array[0]
    if kind == "target_bias":
        return rows.target.bias(array[0])
    return (rows.source if kind == "source_rows" else rows.target).matrix(array)
