from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdmt.errors import UserError
from kdmt.models.architecture import architecture
from kdmt.models.build import build_model, build_transformer, count_parameters, count_stored, describe_model


def transformer_parameters(*, encoder: tuple[int, int, int], decoder: tuple[int, int, int], embeddings: int) -> int:
    """Return the number of parameters of a post-norm Transformer whose sides are (layers, width, FFN width)."""
    (encoder_layers, d, f), (decoder_layers, e, g) = encoder, decoder
    attention, feed_forward, norm = 4 * (d * d + d), d * f + f + f * d + d, 2 * d
    encoder_layer = attention + feed_forward + 2 * norm
    own_attention, feed_forward, norm = 4 * (e * e + e), e * g + g + g * e + e, 2 * e
    cross_attention = 2 * (e * e + e) + 2 * (d * e + e)
    decoder_layer = own_attention + cross_attention + feed_forward + 3 * norm
    return encoder_layers * encoder_layer + decoder_layers * decoder_layer + embeddings


def test_multi30k_has_the_published_size() -> None:
    vocab = 9700  # approximately the size with 10k joint merges on Multi30k
    model = build_transformer(architecture("transformer_multi30k"), src_vocab_size=vocab, tgt_vocab_size=vocab)
    side = (4, 128, 256)
    assert count_parameters(model) == transformer_parameters(encoder=side, decoder=side, embeddings=vocab * 128)
    assert count_parameters(model) == pytest.approx(2.6e6, rel=0.02)


@pytest.mark.parametrize(
    ("name", "millions", "int8_mb"),
    [("student_tiny", 16.9, 17.1), ("student_base_memory", 31.2, 31.6), ("student_base", 42.7, 43.0)],
)
def test_students_have_the_published_sizes(name: str, millions: float, int8_mb: float) -> None:
    """The figures are those of Firefox Translations for a vocabulary of 32,000 pieces, with matrices in int8."""
    with torch.device("meta"):
        model = build_transformer(architecture(name), src_vocab_size=32_000, tgt_vocab_size=32_000)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.06)
    num_bytes = sum(each.numel() * (1 if each.dim() == 2 else 4) for each in model.parameters())
    assert num_bytes / 1e6 == pytest.approx(int8_mb, abs=0.15)


@pytest.mark.parametrize("name", ["student_tiny", "student_base_memory", "student_base"])
def test_students_with_self_attention_differ_in_the_decoder_alone(name: str) -> None:
    recurrent, attending = architecture(name), architecture(f"{name}_attention")
    assert (recurrent.layout, recurrent.decoder, attending.decoder) == ("marian", "ssru", "self_attention")
    assert replace(attending, decoder="ssru") == recurrent


@pytest.mark.parametrize("overrides", [{"decoder": "ssru"}, {"tied_decoder_layers": True}, {"layout": "marian"}])
def test_a_model_is_no_smaller_than_its_lower_bound(overrides: dict[str, Any]) -> None:
    config = architecture("transformer_tiny", overrides)
    stored = count_parameters(build_transformer(config, src_vocab_size=30, tgt_vocab_size=30))
    assert 0.5 * stored < count_stored(config, 30, 30) <= stored


@pytest.mark.parametrize(("shared", "tables"), [(False, 2), (True, 1)])
def test_number_of_parameters_follows_the_formula(shared: bool, tables: int) -> None:
    overrides = {"decoder_layers": 1, "decoder_embed_dim": 32, "share_decoder_input_output_embed": shared}
    model = build_transformer(architecture("transformer_tiny", overrides), src_vocab_size=50, tgt_vocab_size=40)
    embeddings = 50 * 64 + tables * 40 * 32
    expected = transformer_parameters(encoder=(2, 64, 64), decoder=(1, 32, 64), embeddings=embeddings)
    assert count_parameters(model) == expected


def test_model_is_rebuilt_from_description_in_json() -> None:
    config = architecture("transformer_tiny", {"decoder_layers": 1, "encoder_learned_pos": True, "dropout": 0.25})
    model = build_transformer(config, src_vocab_size=30, tgt_vocab_size=40)
    description = json.loads(json.dumps(describe_model(model)))
    rebuilt = build_model(description)
    assert rebuilt.config == config
    assert describe_model(rebuilt) == description
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in rebuilt.state_dict().items()} == shapes


def test_weights_depend_on_the_seed() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        model = build_transformer(architecture("transformer_tiny"), src_vocab_size=30, tgt_vocab_size=30)
        return list(model.parameters())

    first, again, other = weights(1), weights(1), weights(2)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_shared_embeddings_need_equal_vocabularies() -> None:
    with pytest.raises(UserError, match="joined vocabulary; source has 30 symbols, target 40"):
        build_transformer(architecture("transformer_multi30k"), src_vocab_size=30, tgt_vocab_size=40)


def test_unknown_family_is_refused() -> None:
    with pytest.raises(UserError, match="'lstm' is none of transformer"):
        build_model({"family": "lstm"})
