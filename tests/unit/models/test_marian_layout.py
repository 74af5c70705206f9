"""Tests of `layout: marian` against a reference in NumPy, which has the formulas of Marian's Transformer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import marian_reference
import numpy as np
import pytest
import torch

from kdmt.config import Decode
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_model, build_nonautoregressive, build_transformer, describe_model
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, PAD

VOCAB = 23
CONFIG = TransformerConfig(
    layout="marian",
    encoder_layers=3,
    decoder_layers=2,
    encoder_embed_dim=16,
    decoder_embed_dim=16,
    encoder_ffn_embed_dim=24,
    decoder_ffn_embed_dim=20,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    share_all_embeddings=True,
    max_source_positions=20,
    max_target_positions=20,
)
CONFIGS = {
    "shared embeddings": CONFIG,
    "two embeddings": replace(CONFIG, share_all_embeddings=False),
    "SSRU": replace(CONFIG, decoder="ssru"),
    "tied SSRU": replace(CONFIG, decoder="ssru", tied_decoder_layers=True),
}

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def make_model(config: TransformerConfig = CONFIG) -> Transformer:
    """Return a model in float64 whose biases and norms are not those of a new model."""
    torch.manual_seed(1)
    model = build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def reference(model: Transformer, src: list[int], tgt: list[int]) -> torch.Tensor:
    named = model.named_parameters(remove_duplicate=False)  # the names of tied layers too
    weights = {name: parameter.detach().numpy() for name, parameter in named}
    heads = model.config.encoder_attention_heads
    return torch.from_numpy(marian_reference.log_probs(weights, src, tgt, heads=heads))


SRC = [[5, 9, 4, 17, 8, EOS], [12, EOS], [7, 7, 21, EOS]]
TGT = [[11, 6, EOS], [4, 20, 13, 5, EOS], [EOS]]


def padded(sentences: list[list[int]]) -> torch.Tensor:
    rows = [torch.tensor(sentence) for sentence in sentences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def shifted(targets: list[list[int]]) -> list[list[int]]:
    return [[EOS, *target[:-1]] for target in targets]


@every_config
@torch.no_grad()
def test_log_probs_are_those_of_the_formulas(config: TransformerConfig) -> None:
    model = make_model(config)
    found_BTV = model(padded(SRC), padded(shifted(TGT))).log_softmax(-1)
    for src, tgt, found_TV in zip(SRC, TGT, found_BTV, strict=True):
        torch.testing.assert_close(found_TV[: len(tgt)], reference(model, src, tgt), rtol=0, atol=1e-5)


@every_config
def test_score_of_a_hypothesis_is_its_log_prob_by_the_formulas(config: TransformerConfig) -> None:
    model = make_model(config)
    sources = [np.array(src) for src in SRC]
    for beam in (1, 4):
        for src, found in zip(SRC, TorchEngine(model).decode(sources, Decode(beam=beam, nbest=beam)), strict=True):
            for hypothesis in found:
                tgt = [*hypothesis.tokens, EOS]
                expected_T = reference(model, src, tgt)[torch.arange(len(tgt)), tgt]
                assert hypothesis.log_probs == pytest.approx(expected_T.tolist(), abs=1e-5)


def test_description_has_the_layout_and_models_of_earlier_versions_have_none() -> None:
    model = make_model()
    assert describe_model(model)["config"]["layout"] == "marian"
    assert build_model(describe_model(model)).config == CONFIG
    earlier = describe_model(build_transformer(replace(CONFIG, layout="fairseq"), src_vocab_size=9, tgt_vocab_size=9))
    assert "layout" not in earlier["config"]
    assert build_model(earlier).config.layout == "fairseq"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"decoder_embed_dim": 8, "share_all_embeddings": False},
            r"encoder_embed_dim \(16\) and decoder_embed_dim \(8\)",
        ),
        ({"decoder_attention_heads": 2}, "encoder_attention_heads"),
        ({"decoder_normalize_before": True}, "encoder_normalize_before"),
        ({"encoder_normalize_before": True, "decoder_normalize_before": True}, "normalises queries only"),
        ({"no_scale_embedding": True}, r"by sqrt\(D\)"),
        ({"encoder_learned_pos": True}, "sinusoidal positions"),
        ({"activation_fn": "gelu"}, "'relu' or 'swish'"),
    ],
)
def test_a_model_that_marian_has_not_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=rf"model\.layout: .*{problem}"):
        replace(CONFIG, **settings)


def test_non_autoregressive_models_are_refused() -> None:
    with pytest.raises(UserError, match="Marian has no non-autoregressive decoders"):
        build_nonautoregressive(CONFIG, NATConfig(family="ctc"), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
