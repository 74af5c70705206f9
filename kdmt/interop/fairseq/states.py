"""Conversion of weights between fairseq's names and kdmt's names, in both directions.

Supported are fairseq's `transformer` and its non-autoregressive models. The names are those of fairseq 0.12.2
(models/transformer/transformer_encoder.py, transformer_decoder.py, modules/transformer_layer.py, models/nat/*.py).
Names of earlier versions are updated first, as in fairseq's `upgrade_state_dict_named` functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from kdmt.errors import UserError
from kdmt.families import POSITIONAL
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer

# Entries of a state dict that are not weights: version numbers, a tensor with the dtype of the sinusoids, and copies of
# weights that encoder layers make for PyTorch's fast path (zeros if the model was never loaded).
_NO_WEIGHTS = re.compile(
    r"(encoder|decoder)\.(version|embed_positions\.(_float_tensor|weights))"
    r"|encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)"
)

_STACKED = re.compile(r"(.*_attn\.)in_proj_(weight|bias)")
_NUMBERED_NORM = re.compile(r"((encoder|decoder)\.layers\.\d+\.)layer_norms\.(\d)\.(weight|bias)")
_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}

Sources = tuple[str, ...]  # fairseq's names of the tensors that are stacked into one tensor of kdmt


def convert_state(
    state: Mapping[str, Tensor], config: TransformerConfig, nat: NATConfig | None = None
) -> dict[str, Tensor]:
    """Convert the weights of a fairseq model to weights of the kdmt model of the same shape.

    Args:
        state: fairseq's state dict (`checkpoint["model"]`).
        config: architecture of the model.
        nat: settings of a non-autoregressive model, whose layout is fairseq's; None for an autoregressive model.

    Returns:
        A tensor for each of the model's `named_parameters`, in the dtype of the state; a shared tensor occurs once.

    Raises:
        UserError: if tensors are missing, are not part of the architecture, have a different shape than the
            architecture, differ although the architecture shares them, or hold NaN or infinity. The message names the
            tensors.
    """
    state = _up_to_date(state)
    sources = _sources(config, nat)
    aliases = _aliases(config)
    state = {alias: state[name] for alias, name in aliases.items() if name in state} | state
    _check_names(state, {name for names in sources.values() for name in names} | set(aliases))
    _check_shapes(state, sources, config, nat)
    for alias, name in aliases.items():
        if not torch.equal(state[alias].float(), state[name].float()):
            raise UserError(f"fairseq state: {alias} and {name} differ, the architecture shares them")
    _check_numbers(state, sources)
    return {ours: torch.cat([state[name] for name in names]) for ours, names in sources.items()}


def _up_to_date(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the names of earlier fairseq versions replaced by current names."""
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if stacked := _STACKED.fullmatch(name):
            if tensor.dim() == 0 or len(tensor) == 0 or len(tensor) % 3:
                raise UserError(f"fairseq state: {name} is {list(tensor.shape)}, not three projections of one size")
            parts = zip("qkv", tensor.chunk(3), strict=True)
            named |= {f"{stacked[1]}{part}_proj.{stacked[2]}": each for part, each in parts}
        elif (norm := _NUMBERED_NORM.fullmatch(name)) and int(norm[3]) < len(_NORMS[norm[2]]):
            named[f"{norm[1]}{_NORMS[norm[2]][int(norm[3])]}.{norm[4]}"] = tensor
        else:
            named[{"decoder.embed_out": "decoder.output_projection.weight"}.get(name, name)] = tensor
    return named


def _sources(config: TransformerConfig, nat: NATConfig | None = None) -> dict[str, Sources]:
    """Return a mapping from kdmt's name of each parameter to fairseq's names."""
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
    return sources if nat is None else sources | _heads(nat)


def _heads(nat: NATConfig) -> dict[str, Sources]:
    """Return the parameters that non-autoregressive families have in addition to a Transformer."""
    heads: dict[str, Sources] = {}
    if nat.family in POSITIONAL:
        heads["lengths.proj.weight"] = ("decoder.embed_length.weight",)
    if nat.family == "nat_crf":
        heads["transitions.first.weight"] = ("crf_layer.E1.weight",)
        heads["transitions.second.weight"] = ("crf_layer.E2.weight",)
    if nat.family == "levenshtein":
        heads["edits.deletion.weight"] = ("decoder.embed_word_del.weight",)
        heads["edits.placeholders.weight"] = ("decoder.embed_mask_ins.weight",)
    if nat.family == "insertion":
        heads |= _pair("slot_proj", "decoder.pool_out")
    return heads


def _layer(ours: str, theirs: str) -> dict[str, Sources]:
    """Return the parameters that encoder and decoder layers have in common."""
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
    """Return the names of the weight and the bias of a module."""
    return {f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias")}


def _aliases(config: TransformerConfig) -> dict[str, str]:
    """Return a mapping from fairseq's further names of shared tensors to their first name."""
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


def _check_shapes(
    state: Mapping[str, Tensor], sources: Mapping[str, Sources], config: TransformerConfig, nat: NATConfig | None
) -> None:
    sizes = {  # vocabulary sizes follow from the embeddings
        "src_vocab_size": len(state["encoder.embed_tokens.weight"]),
        "tgt_vocab_size": len(state["decoder.embed_tokens.weight"]),
    }
    with torch.device("meta"):  # only the shapes are needed
        model = build_transformer(config, **sizes) if nat is None else build_nonautoregressive(config, nat, **sizes)
    for ours, parameter in model.named_parameters():
        rows, *rest = parameter.shape
        expected = [rows // len(sources[ours]), *rest]
        for name in sources[ours]:
            if list(state[name].shape) != expected:
                raise UserError(f"fairseq state: {name} is {list(state[name].shape)}, the architecture has {expected}")


def _check_numbers(state: Mapping[str, Tensor], sources: Mapping[str, Sources]) -> None:
    """Check that all weights are finite. kdmt's weights are float32, so values too large for float32 are infinite."""
    for name in (name for names in sources.values() for name in names):
        least, most = state[name].float().aminmax()  # NaN if the tensor contains NaN
        if not (torch.isfinite(least) and torch.isfinite(most)):
            raise UserError(f"fairseq state: {name} holds NaN or infinity")


def fairseq_state(model: Transformer) -> dict[str, Tensor]:
    """Return the state dict that fairseq's model of the same shape loads. The inverse of `convert_state`.

    Args:
        model: model to convert; a non-autoregressive model must have fairseq's layout.
    """
    ours = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    state: dict[str, Tensor] = {}
    for name, theirs in _sources(model.config, model.nat if isinstance(model, NATransformer) else None).items():
        state |= dict(zip(theirs, ours[name].chunk(len(theirs)), strict=True))
    state |= {alias: state[name] for alias, name in _aliases(model.config).items()}
    for side in ("encoder", "decoder"):
        state[f"{side}.version"] = torch.tensor([3.0])
        if not getattr(model.config, f"{side}_learned_pos"):
            state[f"{side}.embed_positions._float_tensor"] = torch.zeros(1)
    return {name: tensor.clone() for name, tensor in state.items()}
