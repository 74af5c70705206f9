"""Conversion between the settings in fairseq's checkpoints and kdmt's model descriptions, in both directions.

Old checkpoints contain `args`, the namespace of the command line. New checkpoints contain `cfg`, a dictionary of
sections whose `model` and `task` are such namespaces or dictionaries. Settings that a checkpoint does not contain have
the defaults of fairseq 0.12.2 (models/transformer/transformer_legacy.py, transformer_config.py, models/nat/*.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from kdmt.choices import Activation
from kdmt.errors import UserError
from kdmt.families import FAMILIES, FamilyName
from kdmt.interop.fairseq.pickles import plain
from kdmt.interop.streaming_models import refuse_unidirectional
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer

_TRANSFORMERS = frozenset(
    (
        *("transformer", "transformer_tiny", "transformer_iwslt_de_en", "transformer_wmt_en_de"),
        *("transformer_vaswani_wmt_en_de_big", "transformer_vaswani_wmt_en_fr_big"),
        *("transformer_wmt_en_de_big", "transformer_wmt_en_de_big_t2t"),
    )
)
# name of fairseq's model -> family; the names of the model's architectures begin with the name of the model
MODELS: Mapping[str, FamilyName] = {
    family.fairseq: name for name, family in FAMILIES.items() if family.fairseq is not None
}
_WITHOUT: Mapping[str, str] = {  # settings that kdmt does not support, if they are true -> description
    "adaptive_softmax_cutoff": "an adaptive softmax",
    "adaptive_input": "adaptive input embeddings",
    "no_token_positional_embeddings": "no positions",
    "no_cross_attention": "no attention to the source",
    "cross_self_attention": "cross and self-attention in one",
    "quant_noise_pq": "quantisation noise",
    "quant_noise_scalar": "quantisation noise",
    "char_inputs": "inputs of characters",
    "base_layers": "BASE layers",
    "encoder_layers_to_keep": "pruned layers",
    "decoder_layers_to_keep": "pruned layers",
    "encoder_xformers_att_config": "xFormers attention",
    "decoder_xformers_att_config": "xFormers attention",
    "no_decoder_final_norm": "no norm after the decoder's layers",
    "no_share_discriminator": "layers for deletions alone",
    "no_share_maskpredictor": "layers for placeholders alone",
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Description of the model and settings of the task in a checkpoint, as plain values."""

    config: TransformerConfig
    nat: NATConfig | None
    task: Mapping[str, object]


def read_architecture(content: Mapping[str, object]) -> Architecture:
    """Return the architecture that the settings of a checkpoint describe.

    Args:
        content: content of the checkpoint file (`read_pickle`).

    Raises:
        UserError: if there are no settings, they are invalid, or the model has a part that kdmt does not support.
    """
    model, task = _sections(content)
    name = str(model.get("arch") or model.get("_name") or "transformer")
    family = _family(name)
    for setting, what in _WITHOUT.items():
        if model.get(setting):
            raise UserError(f"the model has {what} ({setting}), which ours do not have")
    config = _config(model, content.get("model"))
    if family is None:
        return Architecture(config=config, nat=None, task=task)
    if config.layernorm_embedding:
        raise UserError(f"the {name} has layernorm_embedding, which in fairseq its encoder alone uses")
    return Architecture(config=_without_frame(config), nat=_nat(model, family, config), task=task)


def _sections(content: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the settings of the model and the settings of the task."""
    if content.get("args") is not None:
        args = plain(content["args"])
        if isinstance(args, dict):
            return args, args
    cfg = plain(content.get("cfg"))
    if isinstance(cfg, dict) and isinstance(cfg.get("model"), dict):
        task = cfg.get("task")
        return _flat(cfg["model"]), task if isinstance(task, dict) else {}
    raise UserError("it holds neither 'args' nor 'cfg' with a 'model': there is nothing to build the model from")


def _flat(model: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a model with nested sections flattened to the names of command-line flags."""
    flat = dict(model)
    for part in ("encoder", "decoder", "quant_noise"):
        section = flat.pop(part, None)
        if isinstance(section, dict):
            flat |= {f"{part}_{name}": value for name, value in section.items()}
    return flat


def _family(name: str) -> FamilyName | None:
    if name in _TRANSFORMERS:
        return None
    for model, family in MODELS.items():
        if name == model or name.startswith(f"{model}_"):
            return family
    raise UserError(f"its architecture is {name!r}, which is none of ours: {', '.join(sorted(_TRANSFORMERS))}, and "
                    f"those that begin with {', '.join(MODELS)}")  # fmt: skip


def _config(model: Mapping[str, object], state: object) -> TransformerConfig:
    values = _Values(model)
    width = values.integer("encoder_embed_dim", 512)
    hidden = values.integer("encoder_ffn_embed_dim", 2048)
    decoder_width = values.integer("decoder_embed_dim", width)
    for part in ("input", "output"):
        if values.integer(f"decoder_{part}_dim", decoder_width) != decoder_width:
            raise UserError(
                f"the model has a decoder_{part}_dim that is not its decoder_embed_dim: ours do not have it"
            )
    old = values.integer("max_positions", 1024)
    config = TransformerConfig(
        encoder_layers=values.integer("encoder_layers", 6),
        decoder_layers=values.integer("decoder_layers", 6),
        encoder_embed_dim=width,
        decoder_embed_dim=decoder_width,
        encoder_ffn_embed_dim=hidden,
        decoder_ffn_embed_dim=values.integer("decoder_ffn_embed_dim", hidden),
        encoder_attention_heads=values.integer("encoder_attention_heads", 8),
        decoder_attention_heads=values.integer("decoder_attention_heads", 8),
        encoder_normalize_before=values.flag("encoder_normalize_before"),
        decoder_normalize_before=values.flag("decoder_normalize_before"),
        encoder_learned_pos=values.flag("encoder_learned_pos"),
        decoder_learned_pos=values.flag("decoder_learned_pos"),
        share_decoder_input_output_embed=values.flag("share_decoder_input_output_embed"),
        share_all_embeddings=values.flag("share_all_embeddings"),
        layernorm_embedding=values.flag("layernorm_embedding"),
        no_scale_embedding=values.flag("no_scale_embedding"),
        activation_fn=_activation(model),
        init="bert" if values.flag("apply_bert_init") else "fairseq",
        dropout=values.rate("dropout", 0.1),
        attention_dropout=values.rate("attention_dropout", 0.0),
        activation_dropout=values.rate("activation_dropout", 0.0) or values.rate("relu_dropout", 0.0),
        max_source_positions=values.integer("max_source_positions", old),
        max_target_positions=values.integer("max_target_positions", old),
    )
    _check_versions(config, state)
    return config


def _activation(model: Mapping[str, object]) -> Activation:
    name = model.get("activation_fn") or "relu"
    if name == "relu":
        return "relu"
    if name == "gelu":
        return "gelu"
    if name == "swish":
        return "swish"
    raise UserError(f"the model's activation_fn is {name!r}: ours have relu, gelu and swish")


def _check_versions(config: TransformerConfig, state: object) -> None:
    """Check the versions of a pre-norm encoder and decoder.

    Encoders before version 2 and decoders before version 3 have no norm after the last layer.
    """
    for side, first in (("encoder", 2), ("decoder", 3)):
        version = state.get(f"{side}.version") if isinstance(state, Mapping) else None
        number = float(version.flatten()[0]) if isinstance(version, Tensor) and version.numel() else 1.0
        if getattr(config, f"{side}_normalize_before") and number < first:
            raise UserError(f"the model's {side} is of version {number:g}, without a norm after its last layer")


def _without_frame(config: TransformerConfig) -> TransformerConfig:
    """Return a configuration whose position limits do not count <s>, which fairseq counts before each sentence."""
    return replace(
        config,
        max_source_positions=config.max_source_positions - 1,
        max_target_positions=config.max_target_positions - 1,
    )


def _nat(model: Mapping[str, object], family: FamilyName, config: TransformerConfig) -> NATConfig:
    values = _Values(model)
    copies = "source_copy" in FAMILIES[family].settings and values.flag("src_embedding_copy")
    if family == "cmlm" and values.flag("src_embedding_copy"):
        raise UserError("the cmlm_transformer has src_embedding_copy, which fairseq itself does not train")
    return NATConfig(
        family=family,
        layout="fairseq",
        source_copy="uniform" if copies else "none",
        lengths="difference" if values.flag("pred_length_offset") else "length",
        crf_rank=values.integer("crf_lowrank_approx", 32),
        crf_candidates=values.integer("crf_beam_approx", 64),
        early_exit=_early_exit(model, config) if family == "levenshtein" else None,
    )


def _early_exit(model: Mapping[str, object], config: TransformerConfig) -> tuple[int, int, int] | None:
    text = str(model.get("early_exit") or "6,6,6")
    parts = text.split(",")
    if len(parts) != 3 or not all(len(part) < 10 and part.strip().isdecimal() for part in parts):
        raise UserError(f"the model's early_exit is {_short(text)}: expected three numbers of layers")
    deletion, placeholders, words = (min(int(part), config.decoder_layers) for part in parts)
    same = deletion == placeholders == words == config.decoder_layers
    return None if same else (deletion, placeholders, words)


# ------------------------------------------------------------------------------------------------- from kdmt to fairseq

_COMMON: Mapping[str, object] = {
    "adaptive_input": False,
    "adaptive_softmax_cutoff": None,
    "no_token_positional_embeddings": False,
    "left_pad_target": False,
    "optimizer": "adam",
    "lr_scheduler": "inverse_sqrt",
    "lr": [5e-4],
    "label_smoothing": 0.1,
}


def fairseq_settings(model: Transformer) -> dict[str, object]:
    """Return the settings that fairseq's command line would produce for a model. The inverse of `read_architecture`.

    Raises:
        UserError: if fairseq has no such model.
    """
    if model.config.layout != "fairseq":
        raise UserError(
            f"the model has 'layout: {model.config.layout}', whose positions and output bias fairseq has not"
        )
    if model.config.decoder != "self_attention":
        raise UserError(
            "the decoder has SSRUs ('model.decoder: ssru'), which fairseq has not: Marian, Bergamot, ONNX Runtime "
            "and PyTorch run it"
        )
    refuse_unidirectional(model.config, "fairseq")
    if model.config.tied_decoder_layers:
        raise UserError("the model has 'tied_decoder_layers', which fairseq has not")
    values = model.config.as_dict()
    init = values.pop("init")
    tokens = [values.pop(f"{side}_token") for side in ("source", "target")]
    if any(token is not None for token in tokens):
        raise UserError("the model is multilingual: its language tokens are not written for fairseq")
    values.pop("target_from_source", None)  # a setting of fairseq's task
    values["max_source_positions"] += model.config.more_encoder_positions
    values["max_target_positions"] += model.config.begins_with_token
    settings = {**_COMMON, **values}
    for part in ("input", "output"):
        settings[f"decoder_{part}_dim"] = model.config.decoder_embed_dim
    if not isinstance(model, NATransformer):
        task = {"arch": "transformer", "task": "translation", "criterion": "label_smoothed_cross_entropy"}
        return {**settings, **task, "left_pad_source": True}
    return {**settings, **_nat_settings(model.nat, model.config), "apply_bert_init": init == "bert"}


def _nat_settings(nat: NATConfig, config: TransformerConfig) -> dict[str, object]:
    family = FAMILIES[nat.family]
    if nat.layout != "fairseq":
        why = "has other parts than fairseq's; 'nat.layout: fairseq' trains one that has not"
        raise UserError(f"the {nat.family!r} model {why if family.fairseq is not None else 'is none that fairseq has'}")
    if nat.source_copy == "soft" or nat.corrects:
        what = "nat.source_copy: soft" if nat.source_copy == "soft" else "nat.correction"
        raise UserError(f"the {nat.family!r} model has '{what}', which fairseq has not")
    exits = nat.early_exit or (config.decoder_layers,) * 3
    return {
        "arch": family.fairseq,
        "task": "translation_lev",
        "criterion": "nat_loss",
        "noise": family.fairseq_noise,
        "left_pad_source": False,  # fairseq copies source embeddings starting at the first column
        "max_source_positions": config.max_source_positions + nat.frame,
        "max_target_positions": config.max_target_positions + nat.frame,
        "src_embedding_copy": nat.source_copy == "uniform" and "source_copy" in family.settings,
        "pred_length_offset": nat.lengths == "difference",
        "sg_length_pred": False,
        "length_loss_factor": 0.1,
        "crf_lowrank_approx": nat.crf_rank,
        "crf_beam_approx": nat.crf_candidates,
        "word_ins_loss_factor": 0.5,
        "early_exit": ",".join(map(str, exits)),
        "no_share_discriminator": False,
        "no_share_maskpredictor": False,
        "share_discriminator_maskpredictor": False,
        "sampling_for_deletion": False,
        "train_step": 4,
        "dae_ratio": 0.5,
        "stochastic_approx": False,
        "label_tau": None,
    }


_MOST = 100_000  # largest accepted number of layers, positions or units


def _short(value: object) -> str:
    """Return a short description of a value of any type, including integers of any length."""
    if isinstance(value, int) and abs(value) > 10**18:
        return "a very large number"
    return repr(value)[:60] if isinstance(value, str | int | float) else f"a {type(value).__name__}"


@dataclass(frozen=True)
class _Values:
    """Reader of settings that checks their types. A setting that is absent or None has the default value."""

    settings: Mapping[str, object]

    def integer(self, name: str, default: int) -> int:
        value = self.settings.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
            raise UserError(f"its setting {name} is {_short(value)}, which is no number from 1 to {_MOST}")
        return value

    def flag(self, name: str) -> bool:
        value = self.settings.get(name)
        if value is not None and not isinstance(value, bool | int):
            raise UserError(f"its setting {name} is {_short(value)}, which is neither true nor false")
        return bool(value)

    def rate(self, name: str, default: float) -> float:
        value = self.settings.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1.0:
            raise UserError(f"its setting {name} is {_short(value)}, which is no probability")
        return float(value)
