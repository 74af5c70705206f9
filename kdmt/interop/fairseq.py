"""fairseq's `transformer` weights under our names.

The names are those of fairseq 0.12.2 (models/transformer/transformer_encoder.py, transformer_decoder.py and
modules/transformer_layer.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from kdmt.errors import UserError
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_transformer
from kdmt.models.transformer import Transformer

# Part of a state dict without being weights: version marks, the dtype of the sinusoids, and the copies that encoder
# layers make of their own weights for PyTorch's fast path (zeros in a model that was never loaded).
_NO_WEIGHTS = re.compile(
    r"(encoder|decoder)\.(version|embed_positions\._float_tensor)"
    r"|encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)"
)

Sources = tuple[str, ...]  # fairseq's names of the tensors that are stacked into one of ours


def convert_state(state: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """The weights of a fairseq `transformer` for our `Transformer` of the same shape.

    Args:
        state: fairseq's state dict (`checkpoint["model"]`).
        config: the architecture that the state is of.

    Returns:
        A tensor for each of the model's `named_parameters`, in the state's dtype; a shared one once.

    Raises:
        UserError: naming the tensors that are missing, that the architecture has no place for, that have another
            shape than it asks for, or that differ although it shares them.
    """
    sources = _sources(config)
    aliases = _aliases(config)
    _check_names(state, {name for names in sources.values() for name in names} | set(aliases))
    for alias, name in aliases.items():
        if not torch.equal(state[alias], state[name]):
            raise UserError(f"fairseq state: {alias} and {name} differ, the architecture shares them")
    _check_shapes(state, sources, config)
    return {ours: torch.cat([state[name] for name in names]) for ours, names in sources.items()}


def _sources(config: TransformerConfig) -> dict[str, Sources]:
    """Our name -> fairseq's names."""
    sources: dict[str, Sources] = {}
    for ours, theirs in (("src_embed", "encoder"), ("tgt_embed", "decoder")):
        if ours == "src_embed" or not config.share_all_embeddings:
            sources[f"{ours}.tokens.weight"] = (f"{theirs}.embed_tokens.weight",)
        if getattr(config, f"{theirs}_learned_pos"):
            sources[f"{ours}.positions.weight"] = (f"{theirs}.embed_positions.weight",)
        if config.layernorm_embedding:
            sources |= _pair(f"{ours}.norm", f"{theirs}.layernorm_embedding")
    for index in range(config.encoder_layers):
        sources |= _layer(f"encoder_layers.{index}", f"encoder.layers.{index}")
    for index in range(config.decoder_layers):
        sources |= _layer(f"decoder_layers.{index}", f"decoder.layers.{index}")
        sources |= _cross_attention(f"decoder_layers.{index}", f"decoder.layers.{index}")
    for side in ("encoder", "decoder"):
        if getattr(config, f"{side}_normalize_before"):
            sources |= _pair(f"{side}_norm", f"{side}.layer_norm")
    if not (config.share_all_embeddings or config.share_decoder_input_output_embed):
        sources["output_proj.weight"] = ("decoder.output_projection.weight",)
    return sources


def _layer(ours: str, theirs: str) -> dict[str, Sources]:
    """What encoder and decoder layers have in common."""
    attention = f"{theirs}.self_attn"
    return {
        **_pair(f"{ours}.self_attn.qkv_proj", *(f"{attention}.{part}_proj" for part in "qkv")),
        **_pair(f"{ours}.self_attn.out_proj", f"{attention}.out_proj"),
        **_pair(f"{ours}.self_attn_residual.norm", f"{attention}_layer_norm"),
        **_pair(f"{ours}.ffn.fc1", f"{theirs}.fc1"),
        **_pair(f"{ours}.ffn.fc2", f"{theirs}.fc2"),
        **_pair(f"{ours}.ffn_residual.norm", f"{theirs}.final_layer_norm"),
    }


def _cross_attention(ours: str, theirs: str) -> dict[str, Sources]:
    attention = f"{theirs}.encoder_attn"
    return {
        **_pair(f"{ours}.cross_attn.q_proj", f"{attention}.q_proj"),
        **_pair(f"{ours}.cross_attn.kv_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
        **_pair(f"{ours}.cross_attn.out_proj", f"{attention}.out_proj"),
        **_pair(f"{ours}.cross_attn_residual.norm", f"{attention}_layer_norm"),
    }


def _pair(ours: str, *theirs: str) -> dict[str, Sources]:
    """The weight and the bias of a layer."""
    return {f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias")}


def _aliases(config: TransformerConfig) -> dict[str, str]:
    """fairseq's second names of shared tensors -> the first."""
    if config.share_all_embeddings:
        first = "encoder.embed_tokens.weight"
        return {"decoder.embed_tokens.weight": first, "decoder.output_projection.weight": first}
    if config.share_decoder_input_output_embed:
        return {"decoder.output_projection.weight": "decoder.embed_tokens.weight"}
    return {}


def _check_names(state: Mapping[str, Tensor], wanted: set[str]) -> None:
    problems = []
    if missing := sorted(wanted - set(state)):
        problems.append(f"missing {', '.join(missing)}")
    if extra := sorted(name for name in set(state) - wanted if not _NO_WEIGHTS.fullmatch(name)):
        problems.append(f"no place for {', '.join(extra)}")
    if problems:
        raise UserError(f"fairseq state: does not fit the architecture: {'; '.join(problems)}")


def _check_shapes(state: Mapping[str, Tensor], sources: Mapping[str, Sources], config: TransformerConfig) -> None:
    with torch.device("meta"):  # shapes alone, the vocabularies as large as the embeddings say
        model = build_transformer(
            config,
            src_vocab_size=len(state["encoder.embed_tokens.weight"]),
            tgt_vocab_size=len(state["decoder.embed_tokens.weight"]),
        )
    for ours, parameter in model.named_parameters():
        rows, *rest = parameter.shape
        expected = [rows // len(sources[ours]), *rest]
        for name in sources[ours]:
            if list(state[name].shape) != expected:
                raise UserError(f"fairseq state: {name} is {list(state[name].shape)}, the architecture has {expected}")


def fairseq_state(model: Transformer) -> dict[str, Tensor]:
    """The state dict that fairseq's `transformer` of the same shape loads: `convert_state` the other way."""
    ours = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    state: dict[str, Tensor] = {}
    for name, theirs in _sources(model.config).items():
        state |= dict(zip(theirs, ours[name].chunk(len(theirs)), strict=True))
    state |= {alias: state[name] for alias, name in _aliases(model.config).items()}
    for side in ("encoder", "decoder"):
        state[f"{side}.version"] = torch.tensor([3.0])
        if not getattr(model.config, f"{side}_learned_pos"):
            state[f"{side}.embed_positions._float_tensor"] = torch.zeros(1)
    return {name: tensor.clone() for name, tensor in state.items()}
