"""Tests of reading the architecture from a fairseq checkpoint's settings, and of refusing unsupported settings."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdmt.errors import UserError
from kdmt.families import FAMILIES
from kdmt.interop.fairseq.architectures import fairseq_settings, read_architecture
from kdmt.interop.fairseq.pickles import Inert, plain, read_pickle
from kdmt.interop.fairseq.states import convert_state
from kdmt.models.architecture import NATConfig, TransformerConfig, architecture
from kdmt.models.build import build_model, build_nonautoregressive, build_transformer, describe_model

GOLDEN = Path(__file__).parents[3] / "golden" / "fairseq"
VERSIONS = {"encoder.version": torch.tensor([3.0]), "decoder.version": torch.tensor([3.0])}


class Given(Inert):
    """Namespace as `read_pickle` returns it."""


def namespace(**settings: Any) -> Inert:
    made = Given()
    made.__setstate__(vars(Namespace(**settings)))
    return made


def read(**settings: Any) -> TransformerConfig:
    return read_architecture({"args": namespace(**settings), "model": VERSIONS}).config


def test_missing_settings_have_fairseqs_defaults() -> None:
    assert read(arch="transformer_wmt_en_de") == architecture("transformer")
    assert read(arch="transformer", encoder_embed_dim=256).decoder_embed_dim == 256
    assert read(arch="transformer", encoder_ffn_embed_dim=64).decoder_ffn_embed_dim == 64
    assert read(arch="transformer", max_positions=300).max_target_positions == 300
    assert read(arch="transformer", relu_dropout=0.2).activation_dropout == 0.2


def test_architectures_of_released_models() -> None:
    """The settings are those in the files of the WMT16 and WMT19 models."""
    sizes = {
        **dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim"), 1024),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 16),
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 6),
    }
    wmt16 = read(arch="transformer_vaswani_wmt_en_de_big", encoder_ffn_embed_dim=4096, decoder_ffn_embed_dim=4096,
                 share_all_embeddings=True, dropout=0.3, **sizes)  # fmt: skip
    assert wmt16 == architecture("transformer_big", {"share_all_embeddings": True})
    wmt19 = read(arch="transformer_wmt_en_de_big", encoder_ffn_embed_dim=8192, decoder_ffn_embed_dim=4096,
                 share_decoder_input_output_embed=True, dropout=0.2, attention_dropout=0.1, **sizes)  # fmt: skip
    assert (wmt19.encoder_ffn_embed_dim, wmt19.decoder_ffn_embed_dim) == (8192, 4096)
    assert wmt19.share_decoder_input_output_embed
    assert not wmt19.share_all_embeddings


def test_nested_settings_are_read() -> None:
    """fairseq 0.12's `TransformerConfig` has nested settings."""
    model = {
        "_name": "transformer",
        "encoder": {"embed_dim": 32, "layers": 2},
        "decoder": {"embed_dim": 32, "layers": 1},
        "quant_noise": {"pq": 0.0},
    }
    config = read_architecture({"cfg": {"model": model, "task": {"_name": "translation"}}, "model": VERSIONS}).config
    assert (config.encoder_layers, config.decoder_layers, config.decoder_embed_dim) == (2, 1, 32)
    model["quant_noise"] = {"pq": 0.1}
    with pytest.raises(UserError, match=r"quantisation noise \(quant_noise_pq\)"):
        read_architecture({"cfg": {"model": model}, "model": VERSIONS})


@pytest.mark.parametrize("case", sorted(path.stem for path in GOLDEN.glob("*.json")))
def test_settings_of_the_command_line_are_read(case: str) -> None:
    """Each golden checkpoint is checked against its command line; the other settings are those of the script."""
    line = json.loads((GOLDEN / f"{case}.json").read_text())["command"].split()
    found = read_architecture(read_pickle(GOLDEN / f"{case}.pt"))
    values = found.config.as_dict()
    for flag in ("encoder-learned-pos", "decoder-learned-pos", "layernorm-embedding", "no-scale-embedding",
                 "share-all-embeddings"):  # fmt: skip
        assert values[flag.replace("-", "_")] == (f"--{flag}" in line), flag
    assert values["encoder_normalize_before"] == ("t2t" in line[1] or "nacrf" in line[1])
    assert values["activation_fn"] == ("gelu" if "gelu" in line else "relu")
    frame = 1 if found.nat is not None else 0
    assert (values["max_source_positions"], values["max_target_positions"]) == (20 - frame, 18 - frame)
    if found.nat is not None:
        assert FAMILIES[found.nat.family].fairseq == line[1]
        copies = "--src-embedding-copy" in line
        assert found.nat.source_copy == ("uniform" if copies else "none")
        assert found.nat.lengths == ("difference" if "--pred-length-offset" in line else "length")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adaptive_softmax_cutoff": [100, 200]}, r"an adaptive softmax \(adaptive_softmax_cutoff\)"),
        ({"adaptive_input": True}, "adaptive input"),
        ({"cross_self_attention": True}, "cross_self_attention"),
        ({"no_cross_attention": True}, "no_cross_attention"),
        ({"no_token_positional_embeddings": True}, "no positions"),
        ({"quant_noise_scalar": 0.5}, "quant_noise_scalar"),
        ({"encoder_layers_to_keep": "0,2"}, "encoder_layers_to_keep"),
        ({"base_layers": 1}, "base_layers"),
        ({"char_inputs": True}, "char_inputs"),
        ({"decoder_output_dim": 64}, "decoder_output_dim"),
        ({"activation_fn": "tanh"}, "activation_fn is 'tanh'"),
        ({"arch": "transformer_lm"}, "architecture is 'transformer_lm'"),
        ({"arch": "lightconv_iwslt_de_en"}, "lightconv_iwslt_de_en"),
        ({"arch": "levenshtein_transformer", "no_share_discriminator": True}, "no_share_discriminator"),
        ({"arch": "levenshtein_transformer", "early_exit": "6,6"}, "early_exit is '6,6'"),
        ({"arch": "levenshtein_transformer", "early_exit": "6,6," + "6" * 5000}, "early_exit is '6,6,666"),
        ({"arch": "nonautoregressive_transformer", "layernorm_embedding": True}, "layernorm_embedding"),
        ({"arch": "cmlm_transformer", "src_embedding_copy": True}, "src_embedding_copy"),
        ({"encoder_layers": "six"}, "encoder_layers is 'six'"),
        ({"encoder_layers": 10**400}, "encoder_layers"),
        ({"encoder_embed_dim": -512}, "encoder_embed_dim is -512"),
        ({"dropout": 3.0}, "dropout is 3.0"),
        ({"share_all_embeddings": "yes"}, "share_all_embeddings is 'yes'"),
        ({"encoder_embed_dim": 30}, "not a multiple"),
    ],
)
def test_unsupported_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(**{"arch": "transformer", **settings})


def test_files_without_settings_are_refused() -> None:
    for content in ({}, {"args": None, "cfg": None}, {"cfg": {"task": {}}}, {"args": 3, "cfg": "x"}):
        with pytest.raises(UserError, match="neither 'args' nor 'cfg'"):
            read_architecture(content)


@pytest.mark.parametrize(("side", "version"), [("encoder", 1.0), ("decoder", 2.0), ("decoder", None)])
def test_pre_norm_models_of_old_versions_without_final_norm_are_refused(side: str, version: float | None) -> None:
    state = dict(VERSIONS)
    del state[f"{side}.version"]
    if version is not None:
        state[f"{side}.version"] = torch.tensor([version])
    settings = namespace(arch="transformer", encoder_normalize_before=True, decoder_normalize_before=True)
    with pytest.raises(UserError, match=f"the model's {side} is of version .*, without a norm"):
        read_architecture({"args": settings, "model": state})
    read_architecture({"args": namespace(arch="transformer"), "model": state})


NATS = [
    NATConfig(family="nat", layout="fairseq"),
    NATConfig(family="nat", layout="fairseq", source_copy="none", lengths="length"),
    NATConfig(family="cmlm", layout="fairseq", source_copy="none"),
    NATConfig(family="inat", layout="fairseq"),
    NATConfig(family="nat_crf", layout="fairseq", crf_rank=4, crf_candidates=8),
    NATConfig(family="levenshtein", layout="fairseq", source_copy="none", lengths="length", early_exit=(1, 2, 2)),
    NATConfig(family="levenshtein", layout="fairseq", source_copy="none", lengths="length"),
    NATConfig(family="insertion", layout="fairseq", source_copy="none", lengths="length"),
]
SMALL = architecture("transformer_tiny", {"max_source_positions": 30, "max_target_positions": 20})


@pytest.mark.parametrize("nat", NATS)
def test_written_settings_of_non_autoregressive_models_are_read_back(nat: NATConfig) -> None:
    # settings that a family does not use are ignored
    lengths = "difference" if nat.family in ("levenshtein", "insertion") else nat.lengths
    with torch.device("meta"):
        model = build_nonautoregressive(SMALL, nat, src_vocab_size=9, tgt_vocab_size=9)
    found = read_architecture({"args": namespace(**fairseq_settings(model)), "model": VERSIONS})
    assert found.config == SMALL
    assert found.nat is not None
    assert found.nat.as_dict() | {"lengths": lengths} == nat.as_dict() | {"lengths": lengths}


def test_written_settings_of_a_transformer_are_read_back() -> None:
    flags = dict.fromkeys(("no_scale_embedding", "encoder_normalize_before", "layernorm_embedding"), True)
    config = architecture("transformer_tiny", {**flags, "activation_fn": "gelu", "dropout": 0.25})
    with torch.device("meta"):
        model = build_transformer(config, src_vocab_size=9, tgt_vocab_size=8)
    found = read_architecture({"args": namespace(**fairseq_settings(model)), "model": VERSIONS})
    assert (found.config, found.nat) == (config, None)


@pytest.mark.parametrize(
    ("nat", "message"),
    [
        (NATConfig(family="cmlm"), "'cmlm' model has other parts than fairseq's"),
        (NATConfig(family="ctc"), "'ctc' model is none that fairseq has"),
        (NATConfig(family="dag"), "'dag' model is none that fairseq has"),
        (NATConfig(family="nat", layout="fairseq", source_copy="soft"), "source_copy: soft"),
        (NATConfig(family="cmlm", layout="fairseq", corrects=True), "nat.correction"),
    ],
)
def test_non_autoregressive_models_without_counterpart_in_fairseq_are_refused(nat: NATConfig, message: str) -> None:
    with torch.device("meta"):
        model = build_nonautoregressive(SMALL, nat, src_vocab_size=9, tgt_vocab_size=9)
    with pytest.raises(UserError, match=message):
        fairseq_settings(model)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"layout": "marian", "decoder_attention_heads": 2}, "'layout: marian'"),
        ({"decoder": "ssru"}, "SSRUs .*Marian, Bergamot, ONNX Runtime and PyTorch run it"),
        ({"tied_decoder_layers": True}, "'tied_decoder_layers', which fairseq has not"),
    ],
)
def test_autoregressive_models_without_counterpart_in_fairseq_are_refused(
    overrides: dict[str, Any], message: str
) -> None:
    with torch.device("meta"):
        model = build_transformer(architecture("transformer_tiny", overrides), src_vocab_size=9, tgt_vocab_size=9)
    with pytest.raises(UserError, match=message):
        fairseq_settings(model)


@pytest.mark.parametrize("nat", NATS)
def test_description_round_trip_through_json(nat: NATConfig) -> None:
    with torch.device("meta"):
        model = build_nonautoregressive(SMALL, nat, src_vocab_size=9, tgt_vocab_size=9)
        again = build_model(json.loads(json.dumps(describe_model(model))))
    assert again.nat == nat
    assert again.config == SMALL


# --------------------------------------------------------------------------------------------------- old state dicts


def test_old_names_of_weights_are_converted() -> None:
    """Old state dicts have stacked projections, numbered norms, another output matrix name, and sinusoids."""
    content = read_pickle(GOLDEN / "old_pre_norm.pt")
    config, state = read_architecture(content).config, content["model"]
    expected = convert_state(state, config)
    old = dict(state)
    for attention in [name.removesuffix("q_proj.weight") for name in state if name.endswith("q_proj.weight")]:
        for kind in ("weight", "bias"):
            old[f"{attention}in_proj_{kind}"] = torch.cat([old.pop(f"{attention}{part}_proj.{kind}") for part in "qkv"])
    norms = {"encoder": ("self_attn", "final"), "decoder": ("self_attn", "encoder_attn", "final")}
    for side, names in norms.items():
        for layer in range(2):
            for number, name in enumerate(names):
                for kind in ("weight", "bias"):
                    norm = old.pop(f"{side}.layers.{layer}.{name}_layer_norm.{kind}")
                    old[f"{side}.layers.{layer}.layer_norms.{number}.{kind}"] = norm
    old["decoder.embed_out"] = old.pop("decoder.output_projection.weight")
    old["encoder.embed_positions.weights"] = torch.ones(3, 8)
    found = convert_state(old, config)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("shape", [(), (0, 8), (25, 8)])
def test_stacked_projections_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    content = read_pickle(GOLDEN / "old_pre_norm.pt")
    state = {**content["model"], "decoder.layers.0.self_attn.in_proj_weight": torch.ones(shape)}
    with pytest.raises(
        UserError, match=r"decoder\.layers\.0\.self_attn\.in_proj_weight is \[.*\], not three projections"
    ):
        convert_state(state, read_architecture(content).config)


# ---------------------------------------------------------------------------------------------------------- languages


def test_settings_of_the_task_are_plain_objects() -> None:
    task = read_architecture(read_pickle(GOLDEN / "multilingual.pt")).task
    assert task["langs"] == ["en", "de", "fr"]
    assert plain(task) == task
